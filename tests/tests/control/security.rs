//! Who may call the control plane, and who may not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use outrigger_tests::plane::Plane;
use outrigger_tests::process::Process;
use outrigger_tests::tls::material;
use outrigger_tests::{admin, peers};

use crate::shop::{MESH, PATIENCE};

/// Files of everybody's certificates, in the plane's directory.
fn write_material(directory: &Path) {
    let material = material();
    let files = [
        ("ca.pem", &material.authority),
        ("server.pem", &material.server.certificate),
        ("server.key", &material.server.key),
        ("client.pem", &material.client.certificate),
        ("client.key", &material.client.key),
        ("stranger.pem", &material.stranger.certificate),
        ("stranger.key", &material.stranger.key),
        ("stranger-ca.pem", &material.stranger_authority),
    ];
    for (name, text) in files {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

/// A plane that serves TLS and asks for certificates.
fn mutual() -> (Plane, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    write_material(directory.path());
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "ca.pem"];
    let plane = Plane::start_at(MESH, directory.path(), "127.0.0.1:0", &tls);
    (plane, directory)
}

const CLIENT: [&str; 6] = ["--tls-ca", "ca.pem", "--tls-cert", "client.pem", "--tls-key", "client.key"];

#[test]
fn only_whoever_shows_a_certificate_of_the_authority_is_answered() {
    let (plane, _directory) = mutual();
    assert!(plane.process.output().contains("gRPC over TLS on 127.0.0.1:"), "{}", plane.process.output());
    let get = |more: &[&str]| plane.run(&[&["get", "services", "-o", "name"], more].concat());
    assert_eq!(get(&CLIENT), Ok(String::new()));
    let by_name = [&CLIENT[..], &["--tls-server-name", "server.test"]].concat();
    assert_eq!(get(&by_name), Ok(String::new()));
    let stranger = ["--tls-ca", "ca.pem", "--tls-cert", "stranger.pem", "--tls-key", "stranger.key"];
    let show_one = "show one that it accepts by --tls-cert and --tls-key";
    for (what, flags, advice) in [
        ("no certificate", &CLIENT[..2], show_one),
        ("a stranger's certificate", &stranger, show_one),
        (
            "a server of nobody's",
            &[&["--tls-ca", "stranger-ca.pem"], &CLIENT[2..]].concat(),
            "(invalid peer certificate: UnknownIssuer): give the authority that signed its certificate by --tls-ca",
        ),
        ("another name", &[&CLIENT[..], &["--tls-server-name", "other.test"]].concat(), "say by --tls-server-name"),
        ("plaintext", &[], "if it serves TLS, call it with --tls-ca"),
        (
            "two words",
            &[&CLIENT[..], &["--server", &format!("http://{}", plane.address())]].concat(),
            "http is plaintext, and --tls-ca (OUTRIGGER_TLS_CA) asks for TLS",
        ),
    ] {
        let refused = get(flags).expect_err(what);
        assert!(refused.starts_with("error: ") && refused.contains(advice), "{what}: {refused}");
    }
    let alone = get(&CLIENT[..4]).unwrap_err();
    assert_eq!(alone, "error: --tls-cert and --tls-key go together: give both, or none\n");
}

#[test]
fn who_calls_plaintext_by_tls_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    write_material(directory.path());
    let plane = Plane::start_at(MESH, directory.path(), "127.0.0.1:0", &[]);
    let refused = plane.run(&["get", "services", "--tls-ca", "ca.pem"]).unwrap_err();
    assert!(refused.contains("it speaks no TLS there: call it without --tls-ca"), "{refused}");
    let refused = plane.run(&["get", "services", "--tls-ca", "ca.pem", "--server", "unix:control.sock"]).unwrap_err();
    assert!(refused.ends_with("a socket file is called in plaintext: leave out --tls-ca\n"), "{refused}");
}

#[test]
fn a_stranger_does_not_fill_the_log() {
    let (plane, _directory) = mutual();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(plane.address()).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        // Until the handshake has failed.
        _ = stream.read_to_end(&mut Vec::new());
    }
    let log = plane.process.output();
    let lines = log.lines().filter(|line| line.contains("the TLS handshake with 127.0.0.1:")).count();
    assert!((1..=250).contains(&lines), "{lines} lines: {log}");
}

#[test]
fn the_environment_names_the_files_too() {
    let (plane, directory) = mutual();
    let output = plane
        .command(&["get", "services"])
        .env("OUTRIGGER_TLS_CA", directory.path().join("ca.pem"))
        .env("OUTRIGGER_TLS_CERT", directory.path().join("client.pem"))
        .env("OUTRIGGER_TLS_KEY", directory.path().join("client.key"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_other_machines_reach_is_not_served_in_plaintext_unless_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    write_material(directory.path());
    let serve = |flags: &[&str]| {
        let mut command = peers::control(MESH);
        command.args(["serve", "--data", "data", "--http", "127.0.0.1:0", "--listen", "0.0.0.0:0"]).args(flags);
        command.current_dir(directory.path());
        command
    };
    let output = serve(&[]).output().unwrap();
    let reason = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for part in
        ["in plaintext", "--tls-cert, --tls-key and --tls-client-ca", "127.0.0.1 or unix:PATH", "--allow-plaintext"]
    {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let output = serve(&["--tls-cert", "server.pem", "--tls-key", "server.key"]).output().unwrap();
    let reason = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(reason.contains("--tls-client-ca") && reason.contains("--allow-anonymous"), "{reason}");
    // A file that is empty trusts nobody, and is no reason to trust everybody.
    std::fs::write(directory.path().join("empty.pem"), "").unwrap();
    let output =
        serve(&["--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "empty.pem"]).output();
    let output = output.unwrap();
    let reason = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(reason.contains("--tls-client-ca empty.pem: holds no certificate"), "{reason}");

    let plane = Plane::start_at(MESH, directory.path(), "0.0.0.0:0", &["--allow-plaintext"]);
    assert!(plane.process.output().contains("gRPC on 0.0.0.0:"), "{}", plane.process.output());
}

#[test]
fn a_socket_file_is_for_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(MESH, directory.path());
    assert_eq!(plane.socket().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    plane.run(&["get", "services"]).unwrap();
}

/// A proxy that starts from a file of `outrigger bootstrap` for TLS is connected.
fn connects_by_tls(mut command: Command) {
    let (plane, directory) = mutual();
    let address = plane.address();
    let flags = ["bootstrap", "--service", "orders", "--id", "orders-1", "--control", address];
    let yaml = plane.run(&[&flags[..], &CLIENT].concat()).unwrap();
    // A socket file, so that the port is nobody else's.
    let socket = directory.path().join("admin");
    let tcp = r#"socket_address: { address: "127.0.0.1", port_value: 15000 }"#;
    assert!(yaml.contains(tcp), "{yaml}");
    plane.write("bootstrap.yaml", &yaml.replace(tcp, &format!("pipe: {{ path: {socket:?} }}")));
    command.arg("-c").arg(directory.path().join("bootstrap.yaml"));
    let mut proxy = Process::start(command, &directory.path().join("proxy.log")).unwrap();
    proxy.ready(&socket, PATIENCE).unwrap();
    let (_, stats) = admin::request(&socket, "GET", "/stats?filter=control_plane.connected_state").unwrap();
    assert!(stats.contains("control_plane.connected_state: 1"), "{stats}");
    let proxies = plane.run(&[&["proxies", "-o", "name"], &CLIENT[..]].concat()).unwrap();
    assert_eq!(proxies, "orders-1\n");
}

#[test]
fn our_proxy_connects_by_tls() {
    let mut command = peers::proxy(env!("CARGO_BIN_EXE_mesh"));
    command.args(["--concurrency", "1", "-l", "warning"]);
    connects_by_tls(command);
}

#[test]
fn envoy_connects_by_tls() {
    let Some(program) = peers::find("envoy", "envoy_connects_by_tls") else { return };
    let mut command = Command::new(program);
    command.args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"]);
    connects_by_tls(command);
}
