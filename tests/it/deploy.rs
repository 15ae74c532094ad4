//! The manifests of `deploy/`: every index runs as a platform would run it, and the settings meet the
//! needs of the program and the restricted Pod Security Standard.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::command::{Command, Run, Running};
use crate::support::database::{Database, RECEIPTS_TABLE};
use crate::support::manifest::{self, Manifest, link_socket, path_below};
use crate::support::postgres::server;
use crate::support::report::Report;
use crate::support::root;
use crate::support::source::{Response, Source};
use crate::support::tls_server::{TLS_ONLY, tls_server};

const AUTHORIZATION: &str = "Bearer of-the-manifest";

fn find(file: &'static str, kind: &str) -> Manifest {
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

/// Runs the tasks concurrently, like a platform.
fn run(tasks: Vec<Command>) -> Vec<Report> {
    let running: Vec<_> = tasks.into_iter().map(Command::spawn).collect();
    let runs: Vec<Run> = running.into_iter().map(Running::wait).collect();
    runs.iter().map(Report::of_run).collect()
}

fn sum(reports: &[Report], key: &str) -> u64 {
    reports.iter().map(|report| report.count(key)).sum()
}

/// Asserts that the tasks of a job settled `size` tokens and masked their reports.
fn assert_settled(reports: &[Report], size: u64) {
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
fn tasks_of_the_cloud_run_job_store_size_tokens_together() {
    let job = find("deploy/cloud-run/job.yaml", "Job");
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
    let database = Database::standard().with_receipts();
    let (source, url) = super::demo_source::start_demo_source();
    let sockets = tempfile::tempdir().unwrap();
    let host = path_below(sockets.path(), job.variable("DB_HOST"));
    link_socket(&host, &server().sockets, database.port);
    let secret = |what: &str, _: &_| match what {
        "DB_PASS" => format!("{}\n", database.password),
        "TOKEN_SERVICE_SOURCE_AUTHORIZATION" => format!("{AUTHORIZATION}\n"),
        other => panic!("unexpected secret {other}"),
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
            .env("CLOUD_RUN_EXECUTION", "token-service-x7k2p")
    };
    let reports = run((0..tasks).map(task).collect());
    assert_settled(&reports, size(&job));
    assert!(
        sum(&reports, "rejected") > 0,
        "the demo source delivers invalid tokens"
    );
    let count = "SELECT count(*) FROM secret_tokens";
    let rows: i64 = database.client().query_one(count, &[]).unwrap().get(0);
    assert_eq!(rows.unsigned_abs(), sum(&reports, "stored"));
    // A retry of a task continues its run: here nothing is left.
    let [retried] = &run(vec![task(0)])[..] else {
        unreachable!("one task has one report")
    };
    assert_eq!(retried.count("stored_before"), reports[0].count("stored"));
    assert_eq!(
        (retried.count("received"), retried.count("exit_code")),
        (0, 0)
    );
    source.signal("TERM");
    source.wait().expect_code(0);
}

/// Builds pods for a source that records requests and a database that requires TLS.
struct PodBuilder {
    source: Source,
}

impl PodBuilder {
    fn new() -> Self {
        let source = Source::generating(|size| size);
        let receipts = RECEIPTS_TABLE.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS");
        let grant = "GRANT INSERT, SELECT ON token_receipts TO PUBLIC";
        let mut admin = tls_server().admin(TLS_ONLY);
        // Two tests may create it at the same time.
        let lock = "SELECT pg_advisory_xact_lock(1)";
        admin
            .batch_execute(&format!("BEGIN; {lock}; {receipts}; {grant}; COMMIT"))
            .unwrap();
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
            other => panic!("unexpected secret {other}"),
        };
        manifest.command(secret, |name| {
            (name == "TOKEN_HOST").then(|| self.source.url())
        })
    }

    /// Asserts that the table holds `size` issued tokens, which were sent over TLS.
    fn assert_stored(&self, size: u64) {
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
fn indexes_of_the_kubernetes_job_store_size_tokens_together() {
    let job = find("deploy/kubernetes/job.yaml", "Job");
    let spec = &job.object["spec"];
    assert_eq!(spec["completionMode"], "Indexed");
    let completions = number(&spec["completions"]);
    assert!(completions > 1);
    assert_eq!(
        job.variable("TOKEN_SERVICE_SHARD"),
        format!("/{completions}")
    );
    let pods = PodBuilder::new();
    let pod = |index: u64| {
        let pod = pods.pod(&job);
        pod.env("JOB_COMPLETION_INDEX", index.to_string())
    };
    let reports = run((0..completions).map(pod).collect());
    assert_settled(&reports, size(&job));
    pods.assert_stored(size(&job));
}

#[test]
fn cron_job_stores_size_tokens_and_keeps_its_journal() {
    let cron = find("deploy/kubernetes/cronjob.yaml", "CronJob");
    let pods = PodBuilder::new();
    let pod = pods.pod(&cron);
    let journal = path_below(pod.dir(), cron.option("journal"));
    let run = pod.run().expect_code(0);
    assert_settled(&[Report::of_run(&run)], size(&cron));
    pods.assert_stored(size(&cron));
    assert!(std::fs::metadata(journal).unwrap().len() > 0);
    let claim = find("deploy/kubernetes/cronjob.yaml", "PersistentVolumeClaim");
    let volumes = cron.pod()["volumes"].as_array().unwrap();
    let claimed = volumes.iter().find(|volume| volume["name"] == "journal");
    let claimed = &claimed.unwrap()["persistentVolumeClaim"]["claimName"];
    assert_eq!(*claimed, claim.object["metadata"]["name"]);
}

/// Whether a task that is started again continues its run.
fn has_receipts(manifest: &Manifest) -> bool {
    let env = manifest.env();
    let has = |name| env.iter().any(|(known, _)| *known == name);
    let is_cloud_run = manifest.kind().0 == "run.googleapis.com/v1";
    has("TOKEN_SERVICE_RECEIPTS") && (is_cloud_run || has("TOKEN_SERVICE_RUN_ID"))
}

#[test]
fn jobs_have_time_to_report_and_are_retried_only_with_receipts() {
    for manifest in manifest::all() {
        if manifest.is_volume_claim() {
            continue;
        }
        let duration = |name| humantime::parse_duration(manifest.option(name)).unwrap();
        let (grace, deadline) = (duration("grace"), duration("deadline"));
        let pod = manifest.pod();
        let (kill_after, limit) = match manifest.kind() {
            ("run.googleapis.com/v1", _) => {
                assert!(has_receipts(&manifest) || pod["maxRetries"] == 0);
                // The seconds between SIGTERM and SIGKILL on Cloud Run, which are fixed.
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
                assert!(has_receipts(&manifest) || job[key] == 0, "{kind}");
                assert_eq!(job["podReplacementPolicy"], "Failed");
                let kill_after = number(&pod["terminationGracePeriodSeconds"]);
                (kill_after, number(&job["activeDeadlineSeconds"]))
            }
        };
        let margin = Duration::from_secs(2);
        let file = manifest.file;
        assert!(grace + margin <= Duration::from_secs(kill_after), "{file}");
        assert!(deadline + grace < Duration::from_secs(limit), "{file}");
    }
}

#[test]
fn pods_are_restricted_and_have_a_termination_message() {
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
        // Settings beyond the standard.
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
        assert_eq!(
            container["terminationMessagePath"],
            token_service::termination_log::FILE
        );
        assert_eq!(container["terminationMessagePolicy"], "File");
    }
}

#[test]
fn manifests_name_this_version_and_no_registry() {
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
            "{} is missing in docs/deploying.md",
            manifest.file
        );
    }
}

#[test]
fn documented_setting_keeps_rejected_tokens_out_of_the_log_of_the_server() {
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
    assert!(logs(), "by default the server logs the token");
    let sql = sql.unwrap().replace("tokens", &database.user);
    database.admin().batch_execute(&sql).unwrap();
    assert!(!logs());
}
