//! Validates files for other platforms against the schemas that the platforms publish: the manifests of
//! `deploy/` for Kubernetes and Cloud Run, the workflows and Dependabot's configuration for GitHub.
//!
//! These tests are ignored by default, as tests/it/main.rs explains. `tests/schemas` fetches the schemas.

use std::fs;
use std::path::PathBuf;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::support::{manifest, root};

/// The oldest Kubernetes version that the manifests support, and the newest known one.
const KUBERNETES: [&str; 2] = ["kubernetes-1.29.json", "kubernetes-1.37.json"];

fn schema(file: &str) -> Value {
    let path = root().join("target/schemas").join(file);
    let text = fs::read_to_string(&path);
    let text =
        text.unwrap_or_else(|error| panic!("{}: {error}; run tests/schemas", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn build_validator(schema: &Value) -> Validator {
    jsonschema::options().build(schema).unwrap()
}

/// Lists the violations of a schema with their paths.
fn errors(validator: &Validator, value: &Value) -> Vec<String> {
    let errors = validator.iter_errors(value);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// Returns a validator for the object `name` of Kubernetes' API.
fn kubernetes(file: &str, name: &str) -> Validator {
    let mut schema = schema(file);
    schema["$ref"] = format!("#/$defs/{name}").into();
    build_validator(&schema)
}

/// Returns a validator for the object `name` of Cloud Run's API.
///
/// Google's discovery documents name types without a path, and allow only the keys that they list.
fn cloud_run(name: &str) -> Validator {
    fn translate(value: &Value) -> Value {
        match value {
            Value::Object(object) => {
                let mut new = Map::new();
                for (key, value) in object {
                    let value = match (key.as_str(), value) {
                        ("type", Value::String(any)) if any == "any" => continue,
                        ("$ref", Value::String(name)) => format!("#/$defs/{name}").into(),
                        (_, value) => translate(value),
                    };
                    new.insert(key.clone(), value);
                }
                if new.get("type") == Some(&"object".into()) && new.contains_key("properties") {
                    new.entry("additionalProperties").or_insert(false.into());
                }
                Value::Object(new)
            }
            Value::Array(array) => array.iter().map(translate).collect(),
            other => other.clone(),
        }
    }
    let schemas = schema("cloud-run.json");
    let schemas = schemas["schemas"].as_object().unwrap();
    let definitions: Map<String, Value> = schemas
        .iter()
        .map(|(name, schema)| {
            let mut schema = translate(schema);
            // Their `id` is the name of the type, which JSON Schema would read as a URI.
            schema.as_object_mut().unwrap().remove("id");
            (name.clone(), schema)
        })
        .collect();
    build_validator(&json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": format!("#/$defs/{name}"),
        "$defs": definitions,
    }))
}

/// Returns the validators for a kind of object, with the files of their schemas.
fn validators(kind: (&str, &str)) -> Vec<(&'static str, Validator)> {
    let name = match kind {
        ("run.googleapis.com/v1" | "serving.knative.dev/v1", kind) => {
            return vec![("cloud-run.json", cloud_run(kind))];
        }
        ("apps/v1", kind) => format!("io.k8s.api.apps.v1.{kind}"),
        ("autoscaling/v2", kind) => format!("io.k8s.api.autoscaling.v2.{kind}"),
        ("batch/v1", kind) => format!("io.k8s.api.batch.v1.{kind}"),
        ("policy/v1", kind) => format!("io.k8s.api.policy.v1.{kind}"),
        ("v1", kind) => format!("io.k8s.api.core.v1.{kind}"),
        other => panic!("no schema is known for {other:?}"),
    };
    KUBERNETES
        .map(|file| (file, kubernetes(file, &name)))
        .into()
}

#[test]
#[ignore = "needs the schemas that tests/schemas fetches; tests/run runs it if they are present"]
fn manifests_match_the_platform_schemas() {
    let mut checked = 0;
    for manifest in manifest::all() {
        for (file, validator) in validators(manifest.kind()) {
            let found = errors(&validator, &manifest.object);
            assert_eq!(found, [""; 0], "{} by {file}", manifest.file);
            checked += 1;
            // The schema must refuse an unknown key and a value of a wrong type.
            if !manifest.has_pod() {
                continue;
            }
            let mut wrong = manifest.object.clone();
            let containers = find(&mut wrong, "containers").unwrap();
            containers[0]["enviroment"] = json!([]);
            containers[0]["args"] = json!([10]);
            assert_eq!(errors(&validator, &wrong).len(), 2, "{file}");
        }
    }
    assert_eq!(checked, 2 + 7 * KUBERNETES.len());
}

/// Finds the first value of a key at any depth.
fn find<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let object = value.as_object_mut()?;
    if object.contains_key(key) {
        return object.get_mut(key);
    }
    object.values_mut().find_map(|value| find(value, key))
}

fn yaml(path: PathBuf) -> Value {
    serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
#[ignore = "needs the schemas that tests/schemas fetches; tests/run runs it if they are present"]
fn workflows_match_the_github_schemas() {
    let validator = build_validator(&schema("github-workflows.json"));
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join(".github/workflows")).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        let workflow = yaml(path);
        assert_eq!(errors(&validator, &workflow), [""; 0], "{names:?}");
        let mut wrong = workflow.clone();
        wrong["jobs"]["none"] = json!({"runs-on": "ubuntu-24.04", "stepps": []});
        assert_ne!(errors(&validator, &wrong), [""; 0], "{names:?}");
    }
    names.sort();
    assert_eq!(names, ["ci.yml", "release.yml"]);
    let validator = build_validator(&schema("dependabot.json"));
    let dependabot = yaml(root().join(".github/dependabot.yml"));
    assert_eq!(errors(&validator, &dependabot), [""; 0]);
    let mut wrong = dependabot;
    wrong["updates"][0]["package-ecosystem"] = "crates".into();
    assert_ne!(errors(&validator, &wrong), [""; 0]);
}
