//! `entrepot up` where it can't: one sentence that says what to do, and nothing left running.

use std::net::TcpListener;
use std::path::PathBuf;

use crate::support::entrepot;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("entrepot {name} {}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn up(&self, arguments: &[&str]) -> String {
        let mut all = vec!["up"];
        all.extend(arguments);
        let output = entrepot(&self.0.join("data"), &all);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_taken_port() {
    let folder = Folder::new("port");
    // Any port of the deployment will do; this one stands for the payment simulator's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = folder.up(&["--base-port", &(port - 10).to_string()]);
    assert!(said.contains(&format!("port {port}")) && said.contains("--base-port"), "{said}");
}

/// Not even the error can be told; the exit code still is one of an error and not of a panic.
#[test]
fn a_full_disk_under_the_log() {
    let full = std::fs::File::create("/dev/full").unwrap();
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_entrepot"))
        .args(["serve", "--config", "/nowhere.toml", "--region", "a"])
        .stdout(full.try_clone().unwrap())
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_missing_program() {
    let folder = Folder::new("program");
    let config = folder.file(
        "config.toml",
        "[deployment]\nname = \"x\"\ndefault_region = \"a\"\n[programs]\nnats_server = \"none\"\n\
         [[regions]]\nname = \"a\"\nnumber = 1\n",
    );
    for detach in [&["--config", config.as_str()][..], &["--detach", "--config", &config]] {
        let said = folder.up(detach);
        assert!(said.contains("nats-server") && said.contains("make build"), "{said}");
    }
}

#[test]
fn a_broken_configuration() {
    let folder = Folder::new("configuration");
    let config = folder.file("config.toml", "[deployment]\nname = \"x\"\nregion = \"a\"\n");
    let said = folder.up(&["--config", &config]);
    assert!(said.contains("config.toml:3: [deployment]: unknown key `region`"), "{said}");
    assert!(said.contains("config.toml:1: [deployment]: `default_region` is missing"), "{said}");
    let said = folder.up(&["--config", "nowhere.toml"]);
    assert!(said.contains("nowhere.toml") && said.contains("--config FILE"), "{said}");
}

#[test]
fn commands_on_nothing() {
    let folder = Folder::new("nothing");
    for command in [&["status"][..], &["chaos", "kill", "us-east"]] {
        let output = entrepot(&folder.0, command);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("no deployment runs") && said.contains("entrepot up"), "{said}");
    }
    assert!(entrepot(&folder.0, &["down"]).status.success());
}
