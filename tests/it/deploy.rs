//! The manifests of `deploy/`: run as a platform would run them, every index of them, and held to what
//! the program and the restricted Pod Security Standard ask of them.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::command::{Command, Run, Running};
use crate::support::database::Database;
use crate::support::manifest::{self, Manifest, link_socket, path_below};
use crate::support::postgres::server;
use crate::support::report::Report;
use crate::support::root;
use crate::support::source::{Response, Source};
use crate::support::tls_server::{TLS_ONLY, tls_server};

const AUTHORIZATION: &str = "Bearer of-the-manifest";

fn only(file: &'static str, kind: &str) -> Manifest {
    let mut found = manifest::read(file).into_iter();
    found
        .find(|manifest| manifest.kind().1 == kind)
        .unwrap_or_else(|| panic!("{file}: no {kind}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

fn size(manifest: &Manifest) -> u64 {
    manifest.args()[0].parse().unwrap()
}

/// All at once, as a platform starts them.
fn run(tasks: Vec<Command>) -> Vec<Report> {
    let running: Vec<_> = tasks.into_iter().map(Command::spawn).collect();
    let runs: Vec<Run> = running.into_iter().map(Running::wait).collect();
    runs.iter().map(Report::of_run).collect()
}

fn sum(reports: &[Report], key: &str) -> u64 {
    reports.iter().map(|report| report.count(key)).sum()
}

/// What holds for the reports of a job, however many tasks it has.
fn is_settled(reports: &[Report], size: u64) {
    assert_eq!(sum(reports, "requested"), size);
    assert_eq!(sum(reports, "received"), size);
    assert_eq!(sum(reports, "stored") + sum(reports, "rejected"), size);
    for report in reports {
        assert_eq!(report.count("exit_code"), 0);
        let tokens = &report.tokens;
        assert!(tokens.iter().all(|token| token["masked"] == true));
    }
}

#[test]
fn the_tasks_of_the_cloud_run_job_store_size_tokens_together() {
    let job = only("deploy/cloud-run/job.yaml", "Job");
    let tasks = number(job.object.pointer("/spec/template/spec/taskCount").unwrap());
    assert!(tasks > 1);
    let instance = job
        .object
        .pointer("/spec/template/metadata/annotations")
        .unwrap();
    let instance = instance["run.googleapis.com/cloudsql-instances"]
        .as_str()
        .unwrap();
    assert_eq!(job.variable("DB_HOST"), format!("/cloudsql/{instance}"));
    let database = Database::standard();
    let (source, url) = super::demo_source::start_demo_source();
    let sockets = tempfile::tempdir().unwrap();
    let host = path_below(sockets.path(), job.variable("DB_HOST"));
    link_socket(&host, &server().sockets, database.port);
    let secret = |what: &str, _: &_| match what {
        "DB_PASS" => format!("{}\n", database.password),
        "TOKEN_SERVICE_SOURCE_AUTHORIZATION" => format!("{AUTHORIZATION}\n"),
        other => panic!("{other} is no secret that is known here"),
    };
    let change = |name: &str| match name {
        "TOKEN_HOST" => Some(url.clone()),
        "DB_HOST" => Some(host.to_str().unwrap().to_owned()),
        "DB_USER" => Some(database.user.clone()),
        "DB_NAME" => Some(database.name.clone()),
        _ => None,
    };
    let task = |index: u64| {
        job.command(secret, change)
            .env("CLOUD_RUN_TASK_INDEX", index.to_string())
            .env("CLOUD_RUN_TASK_COUNT", tasks.to_string())
    };
    let reports = run((0..tasks).map(task).collect());
    is_settled(&reports, size(&job));
    assert!(sum(&reports, "rejected") > 0, "the demo's source has such");
    let count = "SELECT count(*) FROM secret_tokens";
    let rows: i64 = database.client().query_one(count, &[]).unwrap().get(0);
    assert_eq!(rows.unsigned_abs(), sum(&reports, "stored"));
    source.signal("TERM");
    source.wait().expect_code(0);
}

/// A source that tells what it was asked for, and a database that takes verified TLS only.
struct Cluster {
    source: Source,
}

impl Cluster {
    fn new() -> Self {
        let source = Source::generating(|size| size);
        Self { source }
    }

    fn pod(&self, manifest: &Manifest) -> Command {
        let secret = |what: &str, mount: &std::path::Path| match what {
            "DATABASE_URL" => {
                let authority = mount.join("ca.crt");
                std::fs::write(&authority, &tls_server().certificates.ca_pem).unwrap();
                let url = tls_server().url("localhost", TLS_ONLY);
                let authority = authority.to_str().unwrap();
                format!("{url}?sslmode=verify-full&sslrootcert={authority}\n")
            }
            "TOKEN_SERVICE_SOURCE_AUTHORIZATION" => format!("{AUTHORIZATION}\n"),
            other => panic!("{other} is no secret that is known here"),
        };
        manifest.command(secret, |name| {
            (name == "TOKEN_HOST").then(|| self.source.url())
        })
    }

    /// What the source issued, and the table holds.
    fn is_stored(&self, size: u64) {
        for request in self.source.requests() {
            assert_eq!(request.headers["authorization"], AUTHORIZATION);
        }
        let issued = self.source.issued();
        let distinct: HashSet<&String> = issued.iter().collect();
        assert_eq!(distinct.len(), issued.len());
        let sql = "SELECT count(*) FROM secret_tokens WHERE data = ANY($1) AND tls";
        let rows = tls_server().admin(TLS_ONLY).query_one(sql, &[&issued]);
        assert_eq!(rows.unwrap().get::<_, i64>(0).unsigned_abs(), size);
    }
}

#[test]
fn the_indexes_of_the_kubernetes_job_store_size_tokens_together() {
    let job = only("deploy/kubernetes/job.yaml", "Job");
    let spec = &job.object["spec"];
    assert_eq!(spec["completionMode"], "Indexed");
    let completions = number(&spec["completions"]);
    assert!(completions > 1);
    assert_eq!(
        job.variable("TOKEN_SERVICE_SHARD"),
        format!("/{completions}")
    );
    let cluster = Cluster::new();
    let pod = |index: u64| {
        let pod = cluster.pod(&job);
        pod.env("JOB_COMPLETION_INDEX", index.to_string())
    };
    let reports = run((0..completions).map(pod).collect());
    is_settled(&reports, size(&job));
    cluster.is_stored(size(&job));
}

#[test]
fn the_cron_job_stores_size_tokens_and_its_journal_is_for_the_next_night() {
    let cron = only("deploy/kubernetes/cronjob.yaml", "CronJob");
    let cluster = Cluster::new();
    let pod = cluster.pod(&cron);
    let journal = path_below(pod.dir(), cron.option("journal"));
    let run = pod.run().expect_code(0);
    is_settled(&[Report::of_run(&run)], size(&cron));
    cluster.is_stored(size(&cron));
    assert!(std::fs::metadata(journal).unwrap().len() > 0);
    let claim = only("deploy/kubernetes/cronjob.yaml", "PersistentVolumeClaim");
    let volumes = cron.pod()["volumes"].as_array().unwrap();
    let claimed = volumes.iter().find(|volume| volume["name"] == "journal");
    let claimed = &claimed.unwrap()["persistentVolumeClaim"]["claimName"];
    assert_eq!(*claimed, claim.object["metadata"]["name"]);
}

#[test]
fn nothing_is_run_twice_and_nothing_is_killed_without_its_report() {
    for manifest in manifest::all() {
        if manifest.is_volume_claim() {
            continue;
        }
        let duration = |name| humantime::parse_duration(manifest.option(name)).unwrap();
        let (grace, deadline) = (duration("grace"), duration("deadline"));
        let pod = manifest.pod();
        let (between, limit) = match manifest.kind() {
            ("run.googleapis.com/v1", _) => {
                assert_eq!(pod["maxRetries"], 0);
                // What Cloud Run leaves between SIGTERM and SIGKILL, in seconds; it cannot be set.
                let limit = pod["timeoutSeconds"].as_str().unwrap().parse().unwrap();
                (10, limit)
            }
            (_, kind) => {
                let job = match kind {
                    "CronJob" => manifest.object.pointer("/spec/jobTemplate/spec").unwrap(),
                    _ => &manifest.object["spec"],
                };
                assert_eq!(pod["restartPolicy"], "Never");
                let key = match kind {
                    "CronJob" => "backoffLimit",
                    _ => "backoffLimitPerIndex",
                };
                assert_eq!(job[key], 0, "{kind}");
                assert_eq!(job["podReplacementPolicy"], "Failed");
                let between = number(&pod["terminationGracePeriodSeconds"]);
                (between, number(&job["activeDeadlineSeconds"]))
            }
        };
        let margin = Duration::from_secs(2);
        let file = manifest.file;
        assert!(grace + margin <= Duration::from_secs(between), "{file}");
        assert!(deadline + grace < Duration::from_secs(limit), "{file}");
    }
}

#[test]
fn pods_are_restricted_and_tell_how_they_ended() {
    for manifest in manifest::all() {
        if manifest.is_volume_claim() || manifest.kind().0 == "run.googleapis.com/v1" {
            continue;
        }
        let (pod, container) = (manifest.pod(), manifest.container());
        // The Pod Security Standard "restricted": https://kubernetes.io/docs/concepts/security/pod-security-standards/
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["runAsUser"], 65532);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(context.get("privileged"), None);
        for host in ["hostNetwork", "hostPID", "hostIPC"] {
            assert_eq!(pod.get(host), None);
        }
        for volume in pod["volumes"].as_array().unwrap() {
            let kinds = ["secret", "persistentVolumeClaim"];
            assert!(
                kinds.iter().any(|kind| volume.get(kind).is_some()),
                "{volume}"
            );
        }
        // What the standard does not ask for.
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
        assert_eq!(
            container["terminationMessagePath"],
            token_service::runtime::termination_log::FILE
        );
        assert_eq!(container["terminationMessagePolicy"], "File");
    }
}

#[test]
fn the_manifests_name_this_version_and_no_registry() {
    let image = format!("REGISTRY/token_service:{}", env!("CARGO_PKG_VERSION"));
    for manifest in manifest::all() {
        if !manifest.is_volume_claim() {
            assert_eq!(manifest.container()["image"], image, "{}", manifest.file);
        }
    }
    let guide = std::fs::read_to_string(root().join("docs/deploying.md")).unwrap();
    for manifest in manifest::all() {
        assert!(
            guide.contains(manifest.file),
            "{} is not in it",
            manifest.file
        );
    }
}

#[test]
fn the_setting_that_the_guide_names_keeps_rejected_tokens_out_of_the_servers_log() {
    let guide = std::fs::read_to_string(root().join("docs/deploying.md")).unwrap();
    let mut lines = guide.lines().map(str::trim);
    let sql = lines.find(|line| line.starts_with("ALTER ROLE tokens SET "));
    let database = Database::standard();
    let logs = || {
        let token = format!("rejected-{:016x}", fastrand::u64(..));
        let source = Source::responding([Response::tokens([&token])]);
        let run = Command::new().source(&source).database(&database).arg("1");
        assert_eq!(
            Report::of_run(&run.arg("--report=ndjson").run()).with_status("rejected"),
            [token.as_str()]
        );
        let log = std::fs::read_to_string(server().dir.join("server.log")).unwrap();
        log.contains(&token)
    };
    assert!(logs(), "as it comes, the server logs it");
    let sql = sql.unwrap().replace("tokens", &database.user);
    database.admin().batch_execute(&sql).unwrap();
    assert!(!logs());
}
