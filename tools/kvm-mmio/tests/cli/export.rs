// SPDX-License-Identifier: GPL-2.0
//! Metrics, and the completion of words.

use std::process::{Child, ChildStderr};

use kvm_mmio::metrics::Format;

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
    let (server, said, _errors) = listen(&kernel, &["--heat"]);
    let address = address(&said);
    assert!(address.starts_with("127.0.0.1:"), "{said}");
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

    end(server);
    assert!(!kernel.counts());
}

/// What a server says where it answers.
fn listen(kernel: &Kernel, arguments: &[&str]) -> (Child, String, BufReader<ChildStderr>) {
    let arguments = [&["export", "--listen", "0"], arguments].concat();
    let mut server = kernel.command(&arguments);
    let mut server = server.stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(server.stderr.take().unwrap());
    let mut said = String::new();
    errors.read_line(&mut said).unwrap();
    (server, said, errors)
}

/// Where that is.
fn address(said: &str) -> String {
    let address = said.trim().strip_prefix("kvm-mmio: http://").unwrap();
    address.strip_suffix("/metrics").unwrap().to_owned()
}

fn end(mut server: Child) {
    let pid = server.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert!(server.wait().unwrap().success());
}

#[test]
fn export_waits_for_something_to_read() {
    let kernel = Kernel::bare();
    let (server, said, mut errors) = listen(&kernel, &[]);
    assert!(said.contains("nothing to read yet: "), "{said}");
    let mut said = String::new();
    errors.read_line(&mut said).unwrap();
    let scrape = || get(&address(&said), "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(scrape().ends_with("\nkvm_mmio_up 0\n"), "{}", scrape());
    kernel.load(&sample::two_vms());
    assert!(scrape().contains("\nkvm_mmio_up 1\n"), "{}", scrape());
    end(server);
    // What was asked for by name is not waited for.
    for source in ["module", "tracepoints"] {
        let listen = ["export", "--listen", "0", "--source", source];
        Kernel::bare().run(&listen).expect(3, "", "load it with");
    }
}

/// Tracepoints have nothing to say to whoever comes by.
#[test]
fn export_of_a_stock_kernel_has_to_listen() {
    let kernel = Kernel::stock();
    kernel
        .run(&["export"])
        .expect(3, "kvm_mmio_up 0", "the module kvm_mmio_ext is not loaded")
        .expect(3, "", "`kvm-mmio export --listen 9753`");
    for source in ["tracepoints", "bpf", "perf"] {
        kernel.run(&["export", "--source", source]).expect(
            2,
            "",
            "count only while somebody reads them",
        );
    }
    Kernel::with(&sample::two_vms())
        .run(&["export", "--source", "module"])
        .expect(0, "kvm_mmio_up 1", "");
    kernel
        .run(&["export", "--latency"])
        .expect(2, "", "count only while somebody reads them");
}

#[test]
fn export_has_what_its_source_tells() {
    let kernel = Kernel::with(&sample::two_vms());
    let latency = ["export", "--listen", "0", "--latency"];
    for (arguments, wrong) in [
        (&["--source", "module"][..], "leave out --source module"),
        (&["--heat"], "cannot be used with"),
        (&["--json"], "exclude each other"),
    ] {
        let arguments = [&latency[..], arguments].concat();
        kernel.run(&arguments).expect(2, "", wrong);
    }
    // The module's figures have no histogram.
    let metrics = kernel.run(&["export"]).expect(0, "", "").out;
    assert!(!metrics.contains("kvm_mmio_page_exit_seconds"), "{metrics}");
    kernel.run(&["export", "--by", "page"]).expect(0, "", "");
    for by in ["rip", "vm"] {
        kernel.run(&["export", "--by", by]).expect(
            2,
            "",
            "metrics are by page only, as there is no bound to the series",
        );
    }
}

/// The package's units start what this program understands.
#[test]
fn units_start_what_there_is() {
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packages/kvm-mmio");
    let mut started = Vec::new();
    for entry in fs::read_dir(packages).unwrap() {
        let unit = fs::read_to_string(entry.unwrap().path()).unwrap();
        let start = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart=/usr/sbin/kvm-mmio "));
        let Some(start) = start else { continue };
        let arguments: Vec<_> = start.split(' ').chain(["--help"]).collect();
        Kernel::bare().run(&arguments).expect(0, "Usage:", "");
        started.push(start.to_owned());
    }
    assert!(started.iter().any(|start| start.contains("--listen")));
    assert!(started.iter().any(|start| start.contains(".prom")));
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

/// Labels that an expression keeps; None if it keeps those that there are.
fn kept(expression: &str) -> Option<Vec<&str>> {
    if expression.starts_with("kvm_mmio_") {
        return None;
    }
    let by = expression.split_once(" by (");
    let list = by.and_then(|(_, rest)| rest.split_once(')'));
    Some(list.map_or(Vec::new(), |(list, _)| list.split(", ").collect()))
}

/// Labels that a legend shows.
fn shown(legend: &str) -> Vec<&str> {
    let parts = legend.split("{{").skip(1);
    parts
        .filter_map(|part| Some(part.split_once("}}")?.0))
        .collect()
}

/// Two hosts, or two VMs of which nobody knows the names, have a line each, and each its name.
#[test]
fn the_dashboard_tells_lines_apart() {
    let text = include_str!("../../grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut grouped = 0;
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        let Some(kept) = kept(expression) else {
            continue;
        };
        let shown = shown(target["legendFormat"].as_str().unwrap());
        assert!(
            shown.iter().all(|label| kept.contains(label)),
            "{shown:?} of {expression}"
        );
        // One figure of all.
        if kept.is_empty() {
            continue;
        }
        let needed: &[&str] = match expression.contains("kvm_mmio_events_total") {
            true => &["instance"],
            false => &["instance", "pid", "vm", "process"],
        };
        assert!(
            needed.iter().all(|label| kept.contains(label)),
            "{expression}"
        );
        // A table has a column for each.
        if target["format"] != "table" {
            assert_eq!(shown.len(), kept.len(), "{shown:?} of {expression}");
        }
        grouped += 1;
    }
    assert!(grouped > 4);
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
    kernel.write("histograms", support::traced_metrics(Format::OpenMetrics));
    let mut parser = Command::new(&python);
    parser
        .arg(tool("openmetrics.py"))
        .arg(kernel.path("histograms"));
    let parsed = Done::from(parser.output().unwrap())
        .expect(0, "", "")
        .json();
    let sample = parsed
        .iter()
        .find(|sample| sample["name"] == "kvm_mmio_page_exit_seconds_count")
        .unwrap();
    assert_eq!(sample["value"], 2);
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
