//! Tests of the termination message, in a container with the file that Kubernetes mounts.
//!
//! They are ignored by default, as tests/it/main.rs explains: building the image takes minutes.

mod docker {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::super::docker::build_image;

    /// Runs the image with the limits of a strict platform. Returns the message file and standard error.
    fn run_image(args: &[&str]) -> (String, String) {
        build_image();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("termination-log");
        fs::write(&file, "an earlier container").unwrap();
        // Kubelet creates it writable for all users.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let mount = format!("{}:/dev/termination-log", file.display());
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", "--read-only", "--cap-drop=ALL"]);
        docker.args(["--security-opt=no-new-privileges", "--network=none"]);
        docker
            .args(["--volume", &mount, "token_service:test"])
            .args(args);
        let output = docker.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (fs::read_to_string(&file).unwrap(), stderr)
    }

    #[test]
    #[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
    fn message_is_the_summary_or_else_the_error() {
        let (message, stderr) = run_image(&["demo", "10"]);
        assert!(
            message.starts_with("10 requested, 10 received in "),
            "{message}"
        );
        assert_eq!(stderr, format!("{message}\n"));
        // This run prints a summary and an error.
        let (message, stderr) = run_image(&["demo", "10", "--fail-on", "received>0"]);
        assert!(
            message.starts_with("10 requested, 10 received in "),
            "{message}"
        );
        assert!(stderr.contains("\nerror: the condition"), "{stderr}");
        for args in [
            &["demo", "none"][..],
            &["demo", "--error-format=json", "none"],
        ] {
            let (message, stderr) = run_image(args);
            let error = "error: SIZE must be a whole number of at least 1, such as 10, not `none`";
            assert_eq!(message, error, "{stderr}");
        }
    }
}
