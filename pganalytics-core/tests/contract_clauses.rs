//! Each clause of each port's contract is a function of the port's suite, and the suite's macro runs it.
//!
//! What it goes by: the clauses are numbered in the trait's `# Contract`, each with its name in backticks; the suite is the
//! file of `src/testing` that begins with ``//! The contract of [`Port`]``.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn every_contract_clause_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = sources(&root);
    let (suites, sources): (Vec<String>, Vec<String>) =
        sources.into_iter().partition(|source| contract_of(source).is_some());
    let ports: Vec<Port> = sources.iter().flat_map(|source| ports(source)).collect();
    assert!(ports.len() >= 17, "only these ports were found: {ports:?}");
    let problems = problems(&ports, &suites);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn sources(folder: &Path) -> Vec<String> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("the sources are there").path();
        if path.is_dir() {
            sources.extend(self::sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(fs::read_to_string(&path).expect("a source is text"));
        }
    }
    sources
}

#[derive(Debug, PartialEq)]
struct Port {
    name: String,
    // What stands in the backticks behind the number, if anything does.
    clauses: Vec<(usize, Option<String>)>,
}

// A port is a trait with a contract, or one that looks as if it should have one: it can be shared and has a name.
fn ports(source: &str) -> Vec<Port> {
    let lines: Vec<&str> = source.lines().collect();
    let mut ports = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(header) = line.strip_prefix("pub trait ") else { continue };
        let doc =
            lines[..at].iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
        let mut doc: Vec<&str> = doc.copied().collect();
        doc.reverse();
        let contract = doc.iter().position(|line| *line == "/// # Contract");
        let body = lines[at..].iter().take_while(|line| **line != "}");
        let named = body.into_iter().any(|line| line.trim() == "fn name(&self) -> &'static str;");
        if contract.is_some() || named {
            let name = header.chars().take_while(|letter| letter.is_alphanumeric()).collect();
            let clauses = doc[contract.unwrap_or(doc.len())..].iter().filter_map(|line| clause(line));
            ports.push(Port { name, clauses: clauses.collect() });
        }
    }
    ports
}

fn clause(line: &str) -> Option<(usize, Option<String>)> {
    let (number, text) = line.strip_prefix("/// ")?.split_once(". ")?;
    let name = text.strip_prefix('`').and_then(|text| text.split_once("`:")).map(|(name, _)| name.to_owned());
    Some((number.parse().ok()?, name))
}

fn contract_of(source: &str) -> Option<&str> {
    source.strip_prefix("//! The contract of [`")?.split_once("`]").map(|(port, _)| port)
}

fn problems(ports: &[Port], suites: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for port in ports {
        let named: Vec<&String> =
            suites.iter().filter(|suite| contract_of(suite) == Some(&port.name)).collect();
        match named[..] {
            [suite] => problems.extend(port.problems(suite)),
            [] => problems.push(format!("{} has no suite", port.name)),
            _ => problems.push(format!("{} has {} suites", port.name, named.len())),
        }
    }
    for port in suites.iter().filter_map(|suite| contract_of(suite)) {
        if ports.iter().all(|known| known.name != port) {
            problems.push(format!("there is a suite for {port}, which is no port"));
        }
    }
    problems
}

impl Port {
    fn problems(&self, suite: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if self.clauses.is_empty() {
            problems.push("has no clauses".to_owned());
        }
        let (functions, listed) = (functions(suite), listed(suite));
        let mut names = BTreeSet::new();
        for (index, (number, name)) in self.clauses.iter().enumerate() {
            if *number != index + 1 {
                problems.push(format!("clause {} has the number {number}", index + 1));
            }
            let Some(name) = name else {
                problems.push(format!("clause {number} has no name"));
                continue;
            };
            if !names.insert(name.clone()) {
                problems.push(format!("two clauses are called `{name}`"));
            }
            if !functions.contains(&(format!("/// Clause {number}."), name.clone())) {
                problems.push(format!(
                    "clause {number}, `{name}`, has no function that says it is of that clause"
                ));
            }
            if !listed.contains(name) {
                problems.push(format!("clause {number}, `{name}`, is not in the list of the suite's macro"));
            }
        }
        problems.extend(listed.difference(&names).map(|name| format!("the macro's `{name}` is no clause")));
        problems.into_iter().map(|problem| format!("{}: {problem}", self.name)).collect()
    }
}

// The public functions of a suite, each with the first sentence of its doc.
fn functions(suite: &str) -> Vec<(String, String)> {
    let mut functions = Vec::new();
    let mut doc = String::new();
    for line in suite.lines() {
        if let Some(rest) = line.strip_prefix("pub async fn ") {
            let name = rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            functions.push((std::mem::take(&mut doc), name));
        } else if line.starts_with("///") && doc.is_empty() {
            doc = line.split_inclusive('.').next().unwrap_or_default().to_owned();
        } else if !line.starts_with("///") && !line.starts_with("#[") {
            doc.clear();
        }
    }
    functions
}

// The names between the brackets of the macro.
fn listed(suite: &str) -> BTreeSet<String> {
    let list = suite
        .split_once("contract_tests!(")
        .and_then(|(_, call)| call.split_once('['))
        .and_then(|(_, list)| list.split_once(']'));
    let names = list.map_or("", |(list, _)| list).split(',').map(str::trim);
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

const PORT: &str = "
/// Keeps things.
///
/// # Contract
/// 1. `a_thing_is_kept`: for ever and 2. something else,
///    on two lines.
/// 2. `an_absent_thing_is_none`: never an error.
///
/// Nothing is retried.
#[async_trait]
pub trait Keeper: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;
}
";

const SUITE: &str = "//! The contract of [`Keeper`], a function for each clause.
macro_rules! keeper_contract {
    ($subject:expr) => {
        $crate::contract_tests!($crate::testing::keeper, $subject, [a_thing_is_kept, an_absent_thing_is_none,]);
    };
}

/// Clause 1.
pub async fn a_thing_is_kept(subject: KeeperSubject) {}

/// Clause 2. Only what can be tried here.
#[expect(clippy::unused_async)]
pub async fn an_absent_thing_is_none(subject: KeeperSubject) {}
";

fn problems_of(port: &str, suite: &str) -> Vec<String> {
    problems(&ports(port), &[suite.to_owned()])
}

#[test]
fn a_suite_that_covers_its_contract_has_no_problems() {
    assert_eq!(problems_of(PORT, SUITE), [""; 0]);
}

#[test]
fn a_clause_without_a_test_is_noticed() {
    let port = PORT.replace("///\n/// Nothing", "/// 3. `a_third`: new.\n///\n/// Nothing");
    let expected = [
        "Keeper: clause 3, `a_third`, has no function that says it is of that clause",
        "Keeper: clause 3, `a_third`, is not in the list of the suite's macro",
    ];
    assert_eq!(problems_of(&port, SUITE), expected);
}

#[test]
fn a_test_that_is_not_run_is_noticed() {
    let suite = SUITE.replace("a_thing_is_kept, an", "an");
    let expected = ["Keeper: clause 1, `a_thing_is_kept`, is not in the list of the suite's macro"];
    assert_eq!(problems_of(PORT, &suite), expected);
}

#[test]
fn a_clause_that_is_gone_is_noticed() {
    let port = PORT.replace("/// 2. `an_absent_thing_is_none`: never an error.\n", "");
    assert_eq!(problems_of(&port, SUITE), ["Keeper: the macro's `an_absent_thing_is_none` is no clause"]);
}

#[test]
fn a_clause_without_a_name_is_noticed() {
    let port = PORT.replace("`an_absent_thing_is_none`: never", "Never");
    assert!(problems_of(&port, SUITE).contains(&"Keeper: clause 2 has no name".to_owned()));
}

#[test]
fn clauses_out_of_order_are_noticed() {
    let port = PORT.replace("/// 2. `an", "/// 3. `an");
    assert!(problems_of(&port, SUITE).contains(&"Keeper: clause 2 has the number 3".to_owned()));
}

#[test]
fn a_test_of_another_clause_is_noticed() {
    let suite = SUITE.replace("/// Clause 2.", "/// Clause 1.");
    assert_eq!(problems_of(PORT, &suite).len(), 1);
}

#[test]
fn a_port_without_contract_or_suite_is_noticed() {
    let bare = PORT.replace("# Contract", "What it does");
    assert!(problems_of(&bare, SUITE).contains(&"Keeper: has no clauses".to_owned()));
    assert_eq!(problems(&ports(PORT), &[]), ["Keeper has no suite"]);
    let orphan = problems(&[], &[SUITE.to_owned()]);
    assert_eq!(orphan, ["there is a suite for Keeper, which is no port"]);
}
