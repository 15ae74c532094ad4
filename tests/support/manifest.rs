//! Reads the manifests of `deploy/` and builds the process that a platform would start from one: with
//! the container's arguments and variables, and with its mounts below a folder of the test.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::command::Command;

/// One object of a manifest.
pub struct Manifest {
    /// The file below the root.
    pub file: &'static str,
    /// The object.
    pub object: Value,
}

/// All objects of all manifests, in the order of their files.
pub fn all() -> Vec<Manifest> {
    let files = [
        "deploy/cloud-run/job.yaml",
        "deploy/kubernetes/job.yaml",
        "deploy/kubernetes/cronjob.yaml",
        "deploy/cloud-run/service.yaml",
        "deploy/kubernetes/service.yaml",
    ];
    files.into_iter().flat_map(read).collect()
}

/// The objects of one file.
pub fn read(file: &'static str) -> Vec<Manifest> {
    let text = fs::read_to_string(super::root().join(file)).expect("the manifest");
    let documents: Vec<Value> = serde_yaml::from_multiple(&text).expect("YAML that maps to JSON");
    let manifest = |object| Manifest { file, object };
    documents.into_iter().map(manifest).collect()
}

impl Manifest {
    /// Its `apiVersion` and `kind`.
    pub fn kind(&self) -> (&str, &str) {
        let text = |key: &str| self.object[key].as_str().expect("a string");
        (text("apiVersion"), text("kind"))
    }

    /// Whether it describes pods or tasks.
    pub fn has_pod(&self) -> bool {
        self.pod_pointer().is_some()
    }

    /// Whether it is for Cloud Run.
    pub fn is_cloud_run(&self) -> bool {
        let (version, _) = self.kind();
        ["run.googleapis.com/v1", "serving.knative.dev/v1"].contains(&version)
    }

    /// Whether its container runs `token_service serve`.
    pub fn is_service(&self) -> bool {
        self.args()[0] == "serve"
    }

    fn pod_pointer(&self) -> Option<&'static str> {
        match self.kind() {
            ("run.googleapis.com/v1", "Job") => Some("/spec/template/spec/template/spec"),
            ("batch/v1", "Job") | ("apps/v1", "Deployment") | ("serving.knative.dev/v1", _) => {
                Some("/spec/template/spec")
            }
            ("batch/v1", "CronJob") => Some("/spec/jobTemplate/spec/template/spec"),
            _ => None,
        }
    }

    /// The pod's or the task's specification.
    pub fn pod(&self) -> &Value {
        let pointer = self.pod_pointer();
        let pointer = pointer.unwrap_or_else(|| panic!("{:?} has no pod", self.kind()));
        self.object.pointer(pointer).expect("a specification")
    }

    /// The only container.
    pub fn container(&self) -> &Value {
        let containers = self.pod()["containers"].as_array().expect("containers");
        assert_eq!(containers.len(), 1, "{}", self.file);
        &containers[0]
    }

    /// The container's arguments.
    pub fn args(&self) -> Vec<&str> {
        let args = self.container()["args"].as_array().expect("arguments");
        args.iter().map(|arg| arg.as_str().expect("text")).collect()
    }

    /// The value of `--NAME=VALUE` among the arguments.
    pub fn option(&self, name: &str) -> &str {
        let prefix = format!("--{name}=");
        let mut values = self.args().into_iter();
        let value = values.find_map(|arg| arg.strip_prefix(prefix.as_str()));
        value.unwrap_or_else(|| panic!("{}: no --{name}=", self.file))
    }

    /// The container's variables. A field of the pod is represented by its path.
    pub fn env(&self) -> Vec<(&str, &str)> {
        let env = self.container()["env"].as_array().expect("variables");
        env.iter()
            .map(|variable| {
                let name = variable["name"].as_str().expect("a name");
                let field = variable.pointer("/valueFrom/fieldRef/fieldPath");
                let value = field.unwrap_or(&variable["value"]).as_str();
                (name, value.expect("a string"))
            })
            .collect()
    }

    /// The variable's value.
    pub fn variable(&self, name: &str) -> &str {
        let found = self.env().into_iter().find(|(known, _)| *known == name);
        found
            .unwrap_or_else(|| panic!("{}: no {name}", self.file))
            .1
    }

    /// The mount paths of the container.
    pub fn mounts(&self) -> Vec<&str> {
        let mounts = self.container()["volumeMounts"].as_array().expect("mounts");
        let paths = mounts.iter().map(|mount| mount["mountPath"].as_str());
        paths.map(|path| path.expect("a path")).collect()
    }

    /// Builds the process that a platform would start, with the mounts below its folder.
    ///
    /// For each variable that names a file, the file is written with the content of `secret`.
    /// `change` may replace the values of variables, and of options by their names with `--`; everything
    /// else stays unchanged.
    pub fn command(
        &self,
        secret: impl Fn(&str, &Path) -> String,
        change: impl Fn(&str) -> Option<String>,
    ) -> Command {
        let mut command = Command::new();
        let dir = command.dir().to_owned();
        let mounts = self.mounts();
        for mount in &mounts {
            fs::create_dir_all(path_below(&dir, mount)).expect("a folder");
        }
        let relocated = |text: &str| {
            mounts.iter().fold(text.to_owned(), |text, mount| {
                text.replace(mount, path_below(&dir, mount).to_str().expect("UTF-8"))
            })
        };
        let args = self.args().into_iter().map(|arg| {
            let name = arg.split_once('=').map_or("", |(name, _)| name);
            let changed = name.starts_with("--").then(|| change(name)).flatten();
            changed.map_or_else(|| relocated(arg), |value| format!("{name}={value}"))
        });
        command = command.args(args);
        for (name, value) in self.env() {
            let value = change(name).unwrap_or_else(|| relocated(value));
            if let Some(what) = name.strip_suffix("_FILE") {
                let path = Path::new(&value);
                assert!(path.starts_with(&dir), "{name} is not below a mount");
                fs::write(path, secret(what, path.parent().expect("a folder"))).expect("written");
            }
            command = command.env(name, value);
        }
        command
    }
}

/// The path below `dir` for an absolute path of the container.
pub fn path_below(dir: &Path, path: &str) -> PathBuf {
    dir.join(path.trim_start_matches('/'))
}

/// Links a server's Unix socket into `folder` under the name that libpq expects for port 5432.
pub fn link_socket(folder: &Path, sockets: &Path, port: u16) {
    fs::create_dir_all(folder).expect("a folder");
    let socket = sockets.join(format!(".s.PGSQL.{port}"));
    symlink(socket, folder.join(".s.PGSQL.5432")).expect("a link");
}
