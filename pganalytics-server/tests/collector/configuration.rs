//! Wrong configurations, and those that come from the environment.

use std::fs;

use crate::program::{Finished, Program, finish};

async fn check(program: &Program) -> Finished {
    program.finish(&["check"]).await
}

#[tokio::test]
async fn wrong_values_name_file_key_and_what_is_allowed() {
    let program = Program::new("http://127.0.0.1:1", "");
    for (config, words) in [
        ("schedule.interval_seconds = 0", "`schedule.interval_seconds` must be a number from 1 to 86400"),
        ("schedule.interval_seconds = 'often'", "`schedule.interval_seconds`: invalid type"),
        ("schedule.intervall = 5", "unknown field: found `intervall`, expected"),
        ("server.url = 'ftp://x'", "`server.url` must be an http or https URL"),
        ("server.url = 'http://u:p@x'", "without user and password"),
        ("server.compression = 'zstd'", "`gzip`"),
        ("[sources.pg_stat]\nenabled = true", "`sources.pg_stat` must be one of sysstat, "),
        ("[[instances]]\nname = 'a b'\nurl = 'postgres://h/d'", "`instances.0.name` must be 1 to 63 letters"),
        ("[[instances]]\nname = 'a'\nurl = 'mysql://h/d'", "`instances.0.url` must be postgres://user@host"),
        ("[[instances]]\nname = 'a'", "missing field `url`"),
        (
            "[[instances]]\nname='a'\nurl='postgres://h/d'\n[[instances]]\nname='a'\nurl='postgres://h/d'",
            "a name that no other instance has",
        ),
        ("this is not TOML", "collector.toml"),
    ] {
        program.write(config);
        let finished = check(&program).await;
        assert_eq!(finished.status.code(), Some(78), "{config}: {finished:?}");
        let one_line = finished.stderr.trim().lines().count() == 1 || config.starts_with("this");
        assert!(one_line, "{}", finished.stderr);
        assert!(finished.stderr.contains(words), "{config}: {}", finished.stderr);
        assert!(finished.stderr.contains("collector.toml"), "{config}: {}", finished.stderr);
    }
}

#[tokio::test]
async fn secrets_in_the_configuration_are_refused_and_not_repeated() {
    let program = Program::new("http://127.0.0.1:1", "");
    for config in [
        "server.registration_secret = 'hunter2'",
        "[[instances]]\nname = 'a'\nurl = 'postgres://mon:hunter2@h/d'",
        "[[instances]]\nname = 'a'\nurl = 'postgres://h/d?password=hunter2'",
        "[[instances]]\nname = 'a'\nurl = 'postgres://h/d'\npassword = 'hunter2'",
    ] {
        program.write(config);
        let finished = check(&program).await;
        assert_eq!(finished.status.code(), Some(78), "{config}: {finished:?}");
        assert!(!finished.stderr.contains("hunter2"), "{}", finished.stderr);
        assert!(finished.stderr.contains("{ file ="), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn a_missing_file_or_secret_is_a_wrong_configuration() {
    let program = Program::new("http://127.0.0.1:1", "");
    program
        .write("[[instances]]\nname = 'a'\nurl = 'postgres://h/d'\npassword = { env = 'PGA_NOT_SET_HERE' }");
    let finished = check(&program).await;
    assert_eq!(finished.status.code(), Some(78));
    assert!(finished.stderr.contains("`instances.0.password`"), "{}", finished.stderr);
    assert!(finished.stderr.contains("`PGA_NOT_SET_HERE`"), "{}", finished.stderr);
    fs::remove_file(program.path("collector.toml")).unwrap();
    let finished = check(&program).await;
    assert_eq!(finished.status.code(), Some(78));
    assert!(finished.stderr.contains("collector.toml: cannot be read"), "{}", finished.stderr);
}

#[tokio::test]
async fn the_environment_overrides_the_file_and_can_hold_instances() {
    let program = Program::new("http://127.0.0.1:1", "");
    let mut command = program.command(&["check", "--json"]);
    command
        .env("PGA_COLLECTOR__SERVER__URL", "http://127.0.0.1:2")
        .env("PGA_COLLECTOR__SERVER__REGISTRATION_SECRET__ENV", "SOME_NAME")
        .env(
            "PGA_COLLECTOR__INSTANCES",
            "[{name=\"main\", url=\"postgres://mon@127.0.0.1:1/shop\", password={env=\"PW\"}}]",
        )
        .env("PW", "12345");
    program.write("server.url = 'http://127.0.0.1:1'");
    let finished = finish(command).await;
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["server"]["url"], "http://127.0.0.1:2/");
    assert_eq!(report["instances"][0]["name"], "main");
    assert_eq!(report["instances"][0]["connection"]["state"], "failed");
}

#[tokio::test]
async fn an_unknown_variable_is_refused_by_name() {
    let program = Program::new("http://127.0.0.1:1", "");
    let mut command = program.command(&["check"]);
    command.env("PGA_COLLECTOR__SERVER__URI", "http://x");
    let finished = finish(command).await;
    assert_eq!(finished.status.code(), Some(78));
    assert!(finished.stderr.contains("uri"), "{}", finished.stderr);
}

#[tokio::test]
async fn the_sample_is_a_configuration() {
    let program = Program::new("http://127.0.0.1:1", "");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pganalytics-collector"));
    command.arg("sample");
    let sample = finish(command).await.stdout;
    let state = program.path("state");
    program.write(&sample.replace("/var/lib/pganalytics", &state.display().to_string()));
    let finished = check(&program).await;
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stdout.contains("No `[[instances]]` are configured"), "{}", finished.stdout);
}
