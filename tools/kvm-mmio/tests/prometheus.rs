// SPDX-License-Identifier: GPL-2.0
//! Metrics on their whole way: by node_exporter's textfile collector, and by Prometheus. Needs the
//! programs of Debian's packages prometheus and prometheus-node-exporter.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

// The generator of statistics files finds the types that it needs at this crate's root.
use kvm_mmio::{counts, reading, site};
#[allow(dead_code)]
#[path = "../src/device/sample.rs"]
mod sample;
#[allow(dead_code)]
#[path = "../../../src/pure/stats_format.rs"]
mod stats_format;
#[allow(dead_code)]
mod support;

use kvm_mmio::metrics::Format;
use support::{Done, Kernel, traced_metrics};

/// A program by its name, unless an environment variable says where it is.
fn program(variable: &str, name: &str) -> Command {
    Command::new(std::env::var(variable).unwrap_or_else(|_| name.to_owned()))
}

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of this machine that nobody has, at this time.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// What a server says, once it says this.
#[track_caller]
fn wait_for(port: u16, path: &str, wanted: &str) -> String {
    let start = Instant::now();
    loop {
        let text = get(port, path).unwrap_or_default();
        if text.contains(wanted) {
            return text;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no {wanted:?} in {text}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}

fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A kernel with names that need to be escaped.
fn kernel() -> Kernel {
    let kernel = Kernel::with(&sample::two_vms());
    kernel.write("proc/4711/comm", "a \"b\" \\ c\n");
    kernel
}

const NAME: &str = "a \\\"b\\\" \\\\ c";

#[test]
#[ignore = "needs promtool"]
fn needs_promtool_to_find_no_fault() {
    let kernel = kernel();
    kernel.run(&["export", "-o", "metrics"]).expect(0, "", "");
    let histograms = traced_metrics(Format::Prometheus);
    assert!(histograms.contains("_bucket{"), "{histograms}");
    kernel.write("histograms", histograms);
    for file in ["metrics", "histograms"] {
        let metrics = std::fs::File::open(kernel.path(file)).unwrap();
        let mut promtool = program("PROMTOOL", "promtool");
        promtool.args(["check", "metrics"]).stdin(metrics);
        let done = Done::from(promtool.output().unwrap()).expect(0, "", "");
        assert_eq!((done.out.as_str(), done.err.as_str()), ("", ""), "{file}");
    }
}

#[test]
#[ignore = "needs node_exporter"]
fn needs_node_exporter_to_take_the_file() {
    let kernel = kernel();
    kernel.write("dir/other", "");
    kernel
        .run(&["export", "-o", "dir/kvm-mmio.prom"])
        .expect(0, "", "");
    let port = free_port();
    let mut exporter = program("NODE_EXPORTER", "prometheus-node-exporter");
    exporter
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--collector.disable-defaults", "--collector.textfile"])
        .arg(format!(
            "--collector.textfile.directory={}",
            kernel.path("dir").display()
        ))
        .stderr(Stdio::null());
    let _running = Running(exporter.spawn().unwrap());
    let text = wait_for(port, "/metrics", "node_textfile_scrape_error 0");
    for line in [
        "kvm_mmio_up 1".to_owned(),
        format!("kvm_mmio_vm_info{{pid=\"4711\",process=\"{NAME}\",vm=\"1\"}} 1"),
        "# TYPE kvm_mmio_page_accesses_total counter".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "no {line}: {text}");
    }
}

#[test]
#[ignore = "needs prometheus"]
fn needs_prometheus_to_scrape() {
    let kernel = kernel();
    let mut server = kernel.command(&["export", "--listen", "0"]);
    let mut server = server.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut errors = BufReader::new(server.stderr.take().unwrap());
    errors.read_line(&mut said).unwrap();
    let _server = Running(server);
    let target = said.trim().trim_start_matches("kvm-mmio: http://");
    let target = target.trim_end_matches("/metrics");
    kernel.write(
        "prometheus.yml",
        format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: kvm-mmio\n  \
             static_configs:\n  - targets: ['{target}']\n"
        ),
    );
    let port = free_port();
    let mut prometheus = program("PROMETHEUS", "prometheus");
    prometheus
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .current_dir(kernel.folder())
        .stderr(Stdio::null());
    let _running = Running(prometheus.spawn().unwrap());
    let query = "/api/v1/query?query=kvm_mmio_page_accesses_total";
    let text = wait_for(port, query, "\"device\":\"HPET\"");
    assert!(text.contains("\"page\":\"0xfed00000\"") && text.contains("\"42\"]"));
    let process = format!("\"process\":\"{NAME}\"");
    assert!(text.contains(&process), "{text}");
    // It prefers OpenMetrics, which has the type info.
    let metadata = wait_for(
        port,
        "/api/v1/metadata?metric=kvm_mmio_vm",
        "\"type\":\"info\"",
    );
    assert!(metadata.contains("A VM, its process"), "{metadata}");
}
