//! The manifests of `deploy/`: every index of a job and each service runs as a platform would run it, and
//! the settings meet the needs of the program and the restricted Pod Security Standard.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::command::{Command, Run, Running};
use crate::support::database::{Database, RECEIPTS_TABLE};
use crate::support::http::{answer, status, wait_until_ok};
use crate::support::manifest::{self, Manifest, link_socket, path_below};
use crate::support::postgres::{free_port, server};
use crate::support::report::Report;
use crate::support::root;
use crate::support::source::{Response, Source};
use crate::support::tls_server::{TLS_ONLY, tls_server};

const AUTHORIZATION: &str = "Bearer of-the-manifest";
const SERVE_TOKEN: &str = "serve-of-the-manifest";
/// The seconds between SIGTERM and SIGKILL on Cloud Run, which are fixed.
const CLOUD_RUN_KILLS_AFTER: u64 = 10;
/// How long a process may need between the end of its grace period and SIGKILL.
const MARGIN: Duration = Duration::from_secs(2);

fn find(file: &'static str, kind: &str) -> Manifest {
    let mut found = manifest::read(file).into_iter();
    found
        .find(|manifest| manifest.kind().1 == kind)
        .unwrap_or_else(|| panic!("{file}: no {kind}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

fn duration(manifest: &Manifest, option: &str) -> Duration {
    humantime::parse_duration(manifest.option(option)).unwrap()
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

/// The demo source, and a database behind a Unix socket at the place where Cloud Run mounts Cloud SQL.
struct CloudSql {
    database: Database,
    source: Running,
    source_url: String,
    host: PathBuf,
    _sockets: tempfile::TempDir,
}

impl CloudSql {
    fn new(manifest: &Manifest) -> Self {
        let annotations = manifest
            .object
            .pointer("/spec/template/metadata/annotations")
            .unwrap();
        let instance = annotations["run.googleapis.com/cloudsql-instances"]
            .as_str()
            .unwrap();
        let expected = format!("/cloudsql/{instance}");
        assert_eq!(manifest.variable("DB_HOST"), expected);
        let database = Database::standard().with_receipts();
        let (source, source_url) = super::demo_source::start_demo_source();
        let sockets = tempfile::tempdir().unwrap();
        let host = path_below(sockets.path(), &expected);
        link_socket(&host, &server().sockets, database.port);
        Self {
            database,
            source,
            source_url,
            host,
            _sockets: sockets,
        }
    }

    /// The process that Cloud Run would start, without the variables that depend on the task.
    fn command(&self, manifest: &Manifest) -> Command {
        let secret = |what: &str, _: &_| match what {
            "DB_PASS" => format!("{}\n", self.database.password),
            "TOKEN_SERVICE_SOURCE_AUTHORIZATION" => format!("{AUTHORIZATION}\n"),
            other => panic!("unexpected secret {other}"),
        };
        manifest.command(secret, |name| match name {
            "TOKEN_HOST" => Some(self.source_url.clone()),
            "DB_HOST" => Some(self.host.to_str().unwrap().to_owned()),
            "DB_USER" => Some(self.database.user.clone()),
            "DB_NAME" => Some(self.database.name.clone()),
            _ => None,
        })
    }
}

#[test]
fn tasks_of_the_cloud_run_job_store_size_tokens_together() {
    let job = find("deploy/cloud-run/job.yaml", "Job");
    let tasks = number(job.object.pointer("/spec/template/spec/taskCount").unwrap());
    assert!(tasks > 1);
    let cloud_sql = CloudSql::new(&job);
    let task = |index: u64| {
        let task = cloud_sql.command(&job);
        task.env("CLOUD_RUN_TASK_INDEX", index.to_string())
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
    let mut client = cloud_sql.database.client();
    let rows: i64 = client.query_one(count, &[]).unwrap().get(0);
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
    cloud_sql.source.signal("TERM");
    cloud_sql.source.wait().expect_code(0);
}

/// Asserts that an answer is the ndjson report of a run of `size` tokens.
fn assert_report(answer: &str, size: u64) {
    assert_eq!(status(answer), 200, "{answer}");
    let last = answer.trim_end().lines().last().unwrap();
    let summary: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{answer}"));
    let summary = &summary["summary"];
    assert_eq!(number(&summary["received"]), size, "{answer}");
    assert_eq!(summary["exit_code"], 0, "{answer}");
}

#[test]
fn cloud_run_service_serves_on_the_port_of_the_platform() {
    let service = find("deploy/cloud-run/service.yaml", "Service");
    let cloud_sql = CloudSql::new(&service);
    let port = free_port();
    let command = cloud_sql.command(&service).env("PORT", port.to_string());
    let running = command.env("K_SERVICE", "token-service").spawn();
    let container = service.container();
    for probe in ["startupProbe", "livenessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap();
        wait_until_ok(port, &format!("GET {path}"), "");
    }
    assert_report(&answer(port, "POST /v1/runs?size=20", ""), 20);
    // The manifest lets Cloud Run take the processor away after the answer.
    let respond_async = "prefer: respond-async\r\n";
    let refused = answer(port, "POST /v1/runs?size=5", respond_async);
    assert_eq!(status(&refused), 409, "{refused}");
    running.signal("TERM");
    running.wait().expect_code(0);
}

/// Builds pods for a source that records requests and a database that requires TLS.
struct PodBuilder {
    source: Source,
    /// The ports of a service: for requests, and for probes and metrics.
    ports: [u16; 2],
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
        let ports = [free_port(), free_port()];
        Self { source, ports }
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
            "TOKEN_SERVICE_SERVE_TOKEN" => format!("{SERVE_TOKEN}\n"),
            other => panic!("unexpected secret {other}"),
        };
        let [port, admin_port] = self.ports;
        manifest.command(secret, |name| match name {
            "TOKEN_HOST" => Some(self.source.url()),
            "--listen" => Some(format!("127.0.0.1:{port}")),
            "--admin-listen" => Some(format!("127.0.0.1:{admin_port}")),
            _ => None,
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
    has("TOKEN_SERVICE_RECEIPTS") && (manifest.is_cloud_run() || has("TOKEN_SERVICE_RUN_ID"))
}

#[test]
fn jobs_have_time_to_report_and_are_retried_only_with_receipts() {
    for manifest in manifest::all() {
        if !manifest.has_pod() || manifest.is_service() {
            continue;
        }
        let (grace, deadline) = (
            duration(&manifest, "grace"),
            duration(&manifest, "deadline"),
        );
        let pod = manifest.pod();
        let (kill_after, limit) = match manifest.kind() {
            ("run.googleapis.com/v1", _) => {
                assert!(has_receipts(&manifest) || pod["maxRetries"] == 0);
                let limit = pod["timeoutSeconds"].as_str().unwrap().parse().unwrap();
                (CLOUD_RUN_KILLS_AFTER, limit)
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
        let file = manifest.file;
        assert!(grace + MARGIN <= Duration::from_secs(kill_after), "{file}");
        assert!(deadline + grace < Duration::from_secs(limit), "{file}");
    }
}

#[test]
fn kubernetes_service_takes_runs_with_its_token_and_answers_probes_without_it() {
    let deployment = find("deploy/kubernetes/service.yaml", "Deployment");
    let pods = PodBuilder::new();
    let pod = pods.pod(&deployment);
    let data = path_below(pod.dir(), deployment.option("data"));
    let running = pod.spawn();
    let [port, admin_port] = pods.ports;
    let container = deployment.container();
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let probe = &container[probe]["httpGet"];
        assert_eq!(probe["port"], "admin");
        let path = probe["path"].as_str().unwrap();
        wait_until_ok(admin_port, &format!("GET {path}"), "");
    }
    let annotations = &deployment.object["spec"]["template"]["metadata"]["annotations"];
    let path = annotations["prometheus.io/path"].as_str().unwrap();
    wait_until_ok(admin_port, &format!("GET {path}"), "");
    let run = "POST /v1/runs?size=20";
    assert_eq!(status(&answer(port, run, "")), 401);
    let authorization = format!("authorization: Bearer {SERVE_TOKEN}\r\n");
    assert_report(&answer(port, run, &authorization), 20);
    pods.assert_stored(20);
    assert!(std::fs::read_dir(data).unwrap().count() > 0);
    running.signal("TERM");
    running.wait().expect_code(0);
}

#[test]
fn kubernetes_service_selects_the_pods_of_the_deployment_only() {
    let file = "deploy/kubernetes/service.yaml";
    let deployment = find(file, "Deployment");
    let labels = deployment.object["spec"]["template"]["metadata"]["labels"].clone();
    let (service, budget) = (find(file, "Service"), find(file, "PodDisruptionBudget"));
    assert_eq!(service.object["spec"]["selector"], labels);
    for object in [&deployment.object, &budget.object] {
        assert_eq!(object["spec"]["selector"]["matchLabels"], labels);
    }
    let job = find("deploy/kubernetes/job.yaml", "Job");
    assert_ne!(job.object["spec"]["template"]["metadata"]["labels"], labels);
    let scaler = find(file, "HorizontalPodAutoscaler");
    let target = &scaler.object["spec"]["scaleTargetRef"];
    assert_eq!(target["name"], deployment.object["metadata"]["name"]);
    assert_eq!(
        (&target["apiVersion"], &target["kind"]),
        (&deployment.object["apiVersion"], &deployment.object["kind"])
    );
    // The ports of the container are those that the program listens on.
    let ports = deployment.container()["ports"].as_array().unwrap();
    let port_of = |name: &str| {
        let port = ports.iter().find(|port| port["name"] == name).unwrap();
        number(&port["containerPort"])
    };
    for (name, option) in [("http", "listen"), ("admin", "admin-listen")] {
        let address = format!("0.0.0.0:{}", port_of(name));
        assert_eq!(deployment.option(option), address);
    }
    let annotations = &deployment.object["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(
        annotations["prometheus.io/port"],
        port_of("admin").to_string()
    );
    let published = service.object["spec"]["ports"].as_array().unwrap();
    let published: Vec<_> = published.iter().map(|port| &port["targetPort"]).collect();
    assert_eq!(published, ["http"], "the other port needs no token");
}

#[test]
fn services_have_time_to_drain_and_their_limits_match_the_platform() {
    let deployment = find("deploy/kubernetes/service.yaml", "Deployment");
    let kill_after = number(&deployment.pod()["terminationGracePeriodSeconds"]);
    assert!(duration(&deployment, "grace") + MARGIN <= Duration::from_secs(kill_after));
    let service = find("deploy/cloud-run/service.yaml", "Service");
    let grace = duration(&service, "grace");
    assert!(grace + MARGIN <= Duration::from_secs(CLOUD_RUN_KILLS_AFTER));
    let pod = service.pod();
    let limit = number(&pod["timeoutSeconds"]);
    assert!(duration(&service, "deadline") + grace < Duration::from_secs(limit));
    let count = |option| service.option(option).parse::<u64>().unwrap();
    let concurrency = number(&pod["containerConcurrency"]);
    assert_eq!(concurrency, count("max-runs") + count("queue"));
    // The processor is taken away after the answer, and no configuration file says otherwise.
    let annotations = &service.object["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["run.googleapis.com/cpu-throttling"], "true");
}

#[test]
fn pods_are_restricted_and_have_a_termination_message() {
    for manifest in manifest::all() {
        if !manifest.has_pod() || manifest.is_cloud_run() {
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
            let kinds = ["secret", "persistentVolumeClaim", "emptyDir"];
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
        if manifest.has_pod() {
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
