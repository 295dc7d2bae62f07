// SPDX-License-Identifier: GPL-2.0
//! Metrics, and the completion of words.

use super::*;

#[test]
fn bash_completes_every_word() {
    let kernel = Kernel::bare();
    let script = kernel
        .run(&["generate", "completions", "bash"])
        .expect(0, "", "");
    kernel.write("script", script.out);
    for (words, offered) in [
        (&["kvm-mmio", "repo"][..], "report"),
        (&["kvm-mmio", "top", "--int"], "--interval"),
        (&["kvm-mmio", "report", "--sort", "user"], "userspace"),
        (
            &["/usr/sbin/kvm-mmio", "export", "--format", ""],
            "prometheus openmetrics",
        ),
        (&["kvm-mmio", "--json", "record", "--fo"], "--force"),
    ] {
        assert_eq!(completed(&kernel, words), offered, "{words:?}");
    }
}

#[test]
fn export_answers_scrapes() {
    let kernel = Kernel::with(&sample::two_vms());
    kernel
        .run(&["--json", "export", "--listen", "0"])
        .expect(2, "", "--listen");
    kernel
        .run(&["export", "--listen", "nonsense"])
        .expect(2, "", "neither a port nor");
    kernel.run(&["export", "--heat"]).expect(2, "", "--listen");
    let mut server = kernel.command(&["export", "--listen", "0", "--heat"]);
    let mut server = server.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut errors = BufReader::new(server.stderr.take().unwrap());
    errors.read_line(&mut said).unwrap();
    let address = said
        .trim()
        .strip_prefix("kvm-mmio: http://127.0.0.1:")
        .unwrap();
    let address = format!("127.0.0.1:{}", address.strip_suffix("/metrics").unwrap());
    assert!(kernel.counts());

    // Somebody who says nothing is in nobody's way.
    let _silent = TcpStream::connect(&address).unwrap();
    let text = get(&address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4;"));
    assert!(text.contains("\nkvm_mmio_up 1\n") && text.contains("# TYPE kvm_mmio_vm_info gauge"));
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let text = get(
        &address,
        &format!("GET /metrics HTTP/1.0\r\n{accept}\r\n\r\n"),
    );
    assert!(text.contains("Content-Type: application/openmetrics-text; version=1.0.0"));
    assert!(text.ends_with("# EOF\n") && text.contains("# TYPE kvm_mmio_vm info"));
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "200 OK"),
        ("GET /x HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        ("nonsense\r\n\r\n", "400 Bad Request"),
    ] {
        let answer = get(&address, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{request}: {answer}"
        );
    }
    let head = get(&address, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.ends_with("\r\n\r\n"), "{head}");

    // What is read is what there is now, also nothing.
    kernel.write("dev/kvm_mmio_ext", sample::file(&doubled()));
    let text = get(&address, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(
        text.contains("device=\"HPET\",completed=\"userspace\"} 84\n"),
        "{text}"
    );
    fs::remove_file(kernel.path("dev/kvm_mmio_ext")).unwrap();
    let text = get(&address, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("\nkvm_mmio_up 0\n"),
        "{text}"
    );

    let pid = server.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert!(server.wait().unwrap().success());
    assert!(!kernel.counts());
}

/// Every metric that the dashboard asks for is one that there is.
#[test]
fn the_dashboard_shows_what_is_exported() {
    let text = include_str!("../../grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let kernel = Kernel::with(&sample::two_vms());
    let metrics = kernel.run(&["export"]).expect(0, "", "").out;
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let words = expression.split(|c: char| !c.is_alphanumeric() && c != '_');
            for name in words.filter(|word| word.starts_with("kvm_mmio_")) {
                let is_one = |line: &str| line.split(['{', ' ']).next() == Some(name);
                assert!(metrics.lines().any(is_one), "no {name}: {expression}");
                asked += 1;
            }
        }
    }
    assert!(asked > 5);
}

/// The parser of Prometheus' own Python client, which is strict.
#[test]
#[ignore = "needs Python's prometheus_client, which `make check` installs"]
fn export_is_openmetrics() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    for (reading, arguments) in [
        (
            sample::two_vms(),
            &["export", "--format", "openmetrics"][..],
        ),
        (
            sample::two_vms(),
            &[
                "export",
                "--format",
                "openmetrics",
                "--top",
                "1",
                "--vms",
                "1",
            ],
        ),
        (sample::idle(), &["export", "--format", "openmetrics"]),
    ] {
        let kernel = Kernel::with(&reading);
        kernel.write(
            "odd.toml",
            "[[region]]\nname = 'a \"b\" \\ c'\nstart = 0xfe003000\n",
        );
        let arguments = [arguments, &["--regions", "4711=odd.toml", "-o", "metrics"]].concat();
        kernel.run(&arguments).expect(0, "", "");
        let mut parser = Command::new(&python);
        parser
            .arg(tool("openmetrics.py"))
            .arg(kernel.path("metrics"));
        let parsed = Done::from(parser.output().unwrap())
            .expect(0, "kvm_mmio_up", "")
            .json();
        let value = |name: &str, labels: serde_json::Value| {
            let found = parsed
                .iter()
                .find(|s| s["name"] == name && s["labels"] == labels);
            found.map(|sample| sample["value"].as_f64().unwrap())
        };
        assert_eq!(value("kvm_mmio_up", serde_json::json!({})), Some(1.0));
        if reading != sample::idle() {
            let labels = serde_json::json!({
                "vm": "1", "pid": "4711", "process": "", "page": "0xfe003000", "device": "a \"b\" \\ c", "completed": "kernel",
            });
            assert_eq!(value("kvm_mmio_page_accesses_total", labels), Some(10000.0));
        }
    }
    let kernel = Kernel::bare();
    kernel
        .run(&["export", "--format", "openmetrics", "-o", "metrics"])
        .expect(3, "", "insmod");
    let mut parser = Command::new(&python);
    parser
        .arg(tool("openmetrics.py"))
        .arg(kernel.path("metrics"));
    let parsed = Done::from(parser.output().unwrap())
        .expect(0, "", "")
        .json();
    assert_eq!(parsed[0]["value"], 0.0);
}
