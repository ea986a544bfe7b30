use std::time::Duration;

use crate::config::access_log::{AccessLog, Sink};
use crate::format::FormatContext;
use crate::stream_info::ResponseFlags;
use crate::testing::{convert, fields, request, response, stream_info};

fn read(yaml: &str) -> Result<AccessLog, Vec<String>> {
    convert(yaml, AccessLog::convert)
}

const FILE: &str = "'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
const STDOUT: &str = "'@type': type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
const GRPC: &str = "'@type': type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig";

fn line(config: &str) -> String {
    let log = read(&format!("{{typed_config: {{{config}}}}}")).unwrap();
    let (Sink::File(_, format) | Sink::Stdout(format) | Sink::Stderr(format)) = &log.sink else { panic!() };
    let info = stream_info();
    let mut out = Vec::new();
    format.write(&mut out, &FormatContext::new(&info, Duration::ZERO));
    String::from_utf8(out).unwrap()
}

#[test]
fn lines_of_files_and_streams() {
    for (config, text) in [
        (format!("{FILE}, path: /x, format: 'a %PROTOCOL%'"), "a HTTP/1.1"),
        (format!("{FILE}, path: /x, log_format: {{text_format: '%REQ(a)%|'}}"), "-|"),
        (
            format!(
                "{FILE}, path: /x, log_format: {{omit_empty_values: true, text_format_source: {{inline_string: '%REQ(a)%|'}}}}"
            ),
            "|",
        ),
        (format!("{FILE}, path: /x, json_format: {{c: '%CONNECTION_ID%'}}"), "{\"c\":7}\n"),
        (format!("{STDOUT}, log_format: {{json_format: {{c: '%REQ(a)%'}}, omit_empty_values: true}}"), "{}\n"),
    ] {
        assert_eq!(line(&config), text, "{config}");
    }
    assert!(line(STDOUT).starts_with("[2018-03-28T23:35:58.500Z] \"- - HTTP/1.1\" 0 - "));
    assert!(line(&format!("{FILE}, path: /x")).ends_with("\"-\"\n"));
}

#[test]
fn a_grpc_log_and_its_defaults() {
    let service = "grpc_service: {envoy_grpc: {cluster_name: als}}, transport_api_version: V3";
    let yaml = format!(
        "{{typed_config: {{{GRPC}, common_config: {{log_name: l, {service}}}, additional_request_headers_to_log: [X-A]}}}}"
    );
    let Sink::Grpc(log) = read(&yaml).unwrap().sink else { panic!() };
    assert_eq!((&*log.log_name, &*log.service.cluster, &*log.service.authority), ("l", "als", "als"));
    assert_eq!((log.flush_interval, log.buffer_size), (Duration::from_secs(1), 16384));
    assert_eq!(log.request_headers[0].as_str(), "x-a");
}

#[test]
fn faults() {
    for (yaml, problem) in [
        ("{}".to_owned(), "typed_config: is required"),
        (format!("{{typed_config: {{{FILE}}}}}"), "typed_config.path: must not be empty"),
        (
            format!("{{typed_config: {{{FILE}, path: /x, format: '%X%'}}}}"),
            "typed_config.format: %X%: no such operator in this version",
        ),
        (
            format!("{{typed_config: {{{FILE}, path: /x, log_format: {{}}}}}}"),
            "typed_config.log_format: one of text_format, text_format_source, json_format is required",
        ),
        (
            format!("{{typed_config: {{{GRPC}, common_config: {{log_name: l, transport_api_version: V3}}}}}}"),
            "typed_config.common_config.grpc_service: is required",
        ),
        (
            format!(
                "{{typed_config: {{{STDOUT}}}, filter: {{and_filter: {{filters: [{{not_health_check_filter: {{}}}}]}}}}}}"
            ),
            "filter.and_filter.filters: at least two are required",
        ),
        (
            format!("{{typed_config: {{{STDOUT}}}, filter: {{response_flag_filter: {{flags: [UH, XX]}}}}}}"),
            "filter.response_flag_filter.flags[1]: XX: no such response flag",
        ),
        (
            format!("{{typed_config: {{{STDOUT}}}, filter: {{traceable_filter: {{}}}}}}"),
            "filter.traceable_filter: not in this version",
        ),
    ] {
        assert_eq!(read(&yaml).unwrap_err(), [problem], "{yaml}");
    }
}

#[test]
fn filters() {
    let head = request("h", "/", &[("x-log", "1")]);
    let answer = response(503, &[]);
    let trailers = fields(&[("grpc-status", "14")]);
    let mut info = stream_info();
    info.response_code = Some(503);
    info.flags = ResponseFlags::NO_HEALTHY_UPSTREAM;
    info.last_downstream_tx = Some(Duration::from_millis(100));
    let ctx = FormatContext {
        request: Some(&head),
        response: Some(&answer),
        trailers: Some(&trailers),
        ..FormatContext::new(&info, Duration::ZERO)
    };
    let status = |op: &str, value: u32| {
        format!("status_code_filter: {{comparison: {{op: {op}, value: {{default_value: {value}, runtime_key: k}}}}}}")
    };
    for (filter, random, wanted) in [
        (status("GE", 500), 0, true),
        (status("LE", 502), 0, false),
        (status("EQ", 503), 0, true),
        (status("NE", 503), 0, false),
        ("duration_filter: {comparison: {op: GE, value: {default_value: 100, runtime_key: k}}}".into(), 0, true),
        ("response_flag_filter: {}".into(), 0, true),
        ("response_flag_filter: {flags: [UF, UAEX]}".into(), 0, false),
        ("response_flag_filter: {flags: [UF, UH]}".into(), 0, true),
        ("header_filter: {header: {name: x-log, string_match: {exact: '1'}}}".into(), 0, true),
        ("header_filter: {header: {name: x-other}}".into(), 0, false),
        ("grpc_status_filter: {statuses: [UNAVAILABLE, OK]}".into(), 0, true),
        ("grpc_status_filter: {statuses: [UNAVAILABLE], exclude: true}".into(), 0, false),
        ("runtime_filter: {runtime_key: k, percent_sampled: {numerator: 50}}".into(), 149, true),
        ("runtime_filter: {runtime_key: k, percent_sampled: {numerator: 50}}".into(), 150, false),
        ("not_health_check_filter: {}".into(), 0, true),
        (format!("and_filter: {{filters: [{{{}}}, {{{}}}]}}", status("GE", 500), status("GE", 504)), 0, false),
        (format!("or_filter: {{filters: [{{{}}}, {{{}}}]}}", status("GE", 500), status("GE", 504)), 0, true),
    ] {
        let log = read(&format!("{{typed_config: {{{STDOUT}}}, filter: {{{filter}}}}}")).unwrap();
        assert_eq!(log.wants(&ctx, random), wanted, "{filter}");
    }
}
