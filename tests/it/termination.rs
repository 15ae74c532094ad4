//! The termination message, in a container with the file that Kubernetes mounts into each.
//!
//! Ignored unless asked for, as tests/it/main.rs explains: building the image takes minutes.

mod docker {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::super::docker::build_image;

    /// Runs the image as a strict platform does, and gives what it said: in the file, on standard error.
    fn said(args: &[&str]) -> (String, String) {
        build_image();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("termination-log");
        fs::write(&file, "an earlier container").unwrap();
        // Anybody may write it, as kubelet makes it.
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
    #[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
    fn it_is_the_summary_or_else_the_error() {
        let (message, stderr) = said(&["demo", "10"]);
        assert!(
            message.starts_with("10 requested, 10 received in "),
            "{message}"
        );
        assert_eq!(stderr, format!("{message}\n"));
        // There is a summary, and an error besides.
        let (message, stderr) = said(&["demo", "10", "--fail-on", "received>0"]);
        assert!(
            message.starts_with("10 requested, 10 received in "),
            "{message}"
        );
        assert!(stderr.contains("\nerror: the condition"), "{stderr}");
        for args in [
            &["demo", "none"][..],
            &["demo", "--error-format=json", "none"],
        ] {
            let (message, stderr) = said(args);
            let error = "error: SIZE must be a whole number of at least 1, such as 10, not `none`";
            assert_eq!(message, error, "{stderr}");
        }
    }
}
