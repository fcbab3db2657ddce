//! The picture in the README is of a real `agent status` on a terminal, as this build prints it.
//!
//! `docs/make-picture` makes it anew. What is another each time, such as when something was, is the same in all pictures.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Stdio;

use crate::support::logins::{world, written_access};
use crate::support::moto::Moto;
use crate::support::world::{ALICE, BOB, World, numbered, plant, wait};

const PICTURE: &str = "docs/status.svg";
const COLUMNS: usize = 80;
/// Of an `i-…` as the firmware of EC2 shows it.
const INSTANCE: &str = "i-0a1b2c3d4e5f60718";
const NAME: &str = "web-1";
const ACCOUNTS: [(&str, u32); 2] = [("deploy", BOB), ("ec2-user", ALICE)];

/// An instance with a list of five parameters, of which one holds no key.
fn host(moto: &Moto) -> World {
    let mut world = world(
        "AuthorizedKeysFile .ssh/authorized_keys\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin no",
    );
    world.use_store(&moto.endpoint(), "paths = [\"/authorized-keys/web\"]");
    world.asset_tag = Some(INSTANCE.to_owned());
    "1h".clone_into(&mut world.every);
    "manage = [\"ec2-user\", \"deploy\"]".clone_into(&mut world.accounts);
    let passwd = fs::read_to_string(world.path("passwd")).unwrap();
    let people = ["alice:", "bob:", "mallory:", "svc:"];
    let mut lines: Vec<String> = passwd
        .lines()
        .filter(|line| !people.iter().any(|person| line.starts_with(person)))
        .map(str::to_owned)
        .collect();
    for (account, uid) in ACCOUNTS {
        let home = world.home(account);
        fs::create_dir(&home).unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
        lines.push(format!(
            "{account}:x:{uid}:{uid}::{}:/bin/sh",
            home.display()
        ));
    }
    fs::write(world.path("passwd"), lines.join("\n") + "\n").unwrap();
    let name = |label: &str| format!("/authorized-keys/web/{label}");
    let keys = [
        ("ec2-user/alice", "alice@laptop"),
        ("ec2-user/bob", "bob@laptop"),
        ("ec2-user/dana", "dana@laptop"),
        ("deploy/ci", "deploy@ci"),
    ];
    let keys = keys.into_iter().enumerate();
    moto.put_many(keys.map(|(number, (label, who))| (name(label), numbered(number, who))));
    let pasted = "https://github.com/carol.keys".to_owned();
    moto.put_many([(name("ec2-user/carol"), pasted)]);
    world
}

/// What `agent status` prints on a terminal of this many columns, its colours too.
fn on_a_terminal(world: &World) -> String {
    let agent = world.agent(&["status"]);
    let words: Vec<String> = std::iter::once(agent.get_program())
        .chain(agent.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''")))
        .collect();
    let line = format!(
        "stty cols {COLUMNS} rows 50; echo {NAME} > /proc/sys/kernel/hostname; exec {}",
        words.join(" ")
    );
    // A name of its own, too.
    let done = std::process::Command::new("unshare")
        .args(["--uts", "script", "-qefc", &line, "/dev/null"])
        .envs(world.environment.iter().map(|(name, value)| (name, value)))
        .env_remove("NO_COLOR")
        .env("TERM", "xterm-256color")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(done.stdout).unwrap().replace('\r', "")
}

/// The same for every run: times, the digest, the directory of this world, what this machine has installed.
fn settled(text: &str, world: &World) -> String {
    let text = text
        .replace(&world.path("").display().to_string(), "/")
        .replace(env!("CARGO_PKG_VERSION"), "0.1.0");
    let mut settled = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit() || c == ':') {
        let (before, from) = rest.split_at(at);
        settled.push_str(before);
        let (replaced, length) = [digest, moment, duration, release]
            .into_iter()
            .find_map(|settle| settle(before, from))
            .unwrap_or((&from[..1], 1));
        settled.push_str(replaced);
        rest = &from[length..];
    }
    settled + rest
}

type Settled = Option<(&'static str, usize)>;

const DIGEST: &str = ":a43664acd8a0";

/// After `sha256`, the digest or the start of it.
fn digest(before: &str, from: &str) -> Settled {
    let hex = from.strip_prefix(':')?;
    let length = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
    (before.ends_with("sha256") && length >= DIGEST.len() - 1).then(|| (DIGEST, length + 1))
}

/// A time stamp, to the second or finer.
fn moment(_: &str, from: &str) -> Settled {
    let length = from
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || b"-T:.Z".contains(byte))
        .count();
    let stamp = &from[..length];
    (length >= 20 && stamp.ends_with('Z')).then_some(("2026-11-23T10:21:03Z", length))
}

/// A number and a unit of time, and as many more of them as follow.
fn duration(_: &str, from: &str) -> Settled {
    let mut words = from.split(' ');
    let mut length = 0;
    while let (Some(number), Some(unit)) = (words.next(), words.next()) {
        let letters = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
        let is_one = number.bytes().all(|byte| byte.is_ascii_digit())
            && ["ms", "s", "min", "h", "d"].contains(&&unit[..letters]);
        if !is_one {
            break;
        }
        length += number.len() + 1 + letters + 1;
        if letters < unit.len() {
            break;
        }
    }
    (length > 0).then(|| ("12 s", length - 1))
}

/// Of the sshd of this machine.
fn release(before: &str, from: &str) -> Settled {
    let length = from
        .bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'.')
        .count();
    before
        .ends_with("OpenSSH ")
        .then(|| ("9.2", from[..length].trim_end_matches('.').len()))
}

/// A terminal with these lines, in the colours that the reader's browser prefers, dark or light.
fn drawn(command: &str, said: &str) -> String {
    const LINE: usize = 20;
    const EDGE: usize = 16;
    // Six tenths of the size, as monospaced letters are.
    let width = COLUMNS * 84 / 10 + 2 * EDGE;
    let mut lines = vec![format!(
        "<tspan class=\"dim\">$</tspan> <tspan class=\"bold\">{}</tspan>",
        escaped(command)
    )];
    let mut classes: Vec<&str> = Vec::new();
    for line in said.trim_end().lines() {
        let columns = plain(line).chars().count();
        assert!(columns <= COLUMNS, "{columns} columns: {line}");
        let mut drawn = String::new();
        for (at, part) in line.split("\u{1b}[").enumerate() {
            let text = if at == 0 {
                part
            } else {
                let (codes, text) = part.split_once('m').expect("a colour");
                for code in codes.split(';') {
                    style(code, &mut classes);
                }
                text
            };
            if text.is_empty() {
            } else if classes.is_empty() {
                drawn += &escaped(text);
            } else {
                let classes = classes.join(" ");
                write!(
                    drawn,
                    "<tspan class=\"{classes}\">{}</tspan>",
                    escaped(text)
                )
                .unwrap();
            }
        }
        lines.push(drawn);
    }
    let height = lines.len() * LINE + 2 * EDGE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n{STYLE}\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n"
    );
    for (at, line) in lines.iter().enumerate() {
        let y = EDGE + at * LINE + 14;
        writeln!(
            svg,
            "<text x=\"{EDGE}\" y=\"{y}\" xml:space=\"preserve\">{line}</text>"
        )
        .unwrap();
    }
    svg + "</svg>\n"
}

const STYLE: &str = "\
<style>
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1f2328; white-space: pre }
rect { fill: #f6f8fa }
.bold { font-weight: 600 } .dim { fill: #59636e }
.red { fill: #c8202b } .green { fill: #1a7f37 } .yellow { fill: #8a5d00 } .cyan { fill: #1b7c83 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } rect { fill: #161b22 } .dim { fill: #9198a1 }
.red { fill: #ff7b72 } .green { fill: #3fb950 } .yellow { fill: #d29922 } .cyan { fill: #56d4dd }
}
</style>
";

/// What a code of a terminal does to the classes that count.
fn style(code: &str, classes: &mut Vec<&'static str>) {
    match code {
        "" | "0" => classes.clear(),
        "1" => classes.push("bold"),
        "2" | "90" => classes.push("dim"),
        "31" | "91" => classes.push("red"),
        "32" | "92" => classes.push("green"),
        "33" | "93" => classes.push("yellow"),
        "36" | "96" => classes.push("cyan"),
        "22" => classes.retain(|class| !["bold", "dim"].contains(class)),
        "39" => classes.retain(|class| ["bold", "dim"].contains(class)),
        other => panic!("{other} is not drawn"),
    }
}

/// A line without its colours.
fn plain(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        plain + part.split_once('m').unwrap_or_default().1
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[test]
fn the_picture_in_the_readme_is_what_status_prints() {
    let moto = Moto::start();
    let world = host(&moto);
    let agent = world.start();
    let account = "ec2-user";
    wait("three keys", || world.keys(account) == 3);
    let content = world.read(account) + &numbered(9, "rogue") + "\n";
    plant(&world.file(account), ALICE, &content);
    wait("the repair", || {
        world.keys(account) == 3 && world.word()["drift"]["last"].is_object()
    });
    for (account, _) in ACCOUNTS {
        wait("sshd's answer", || {
            written_access(&world, account)["verdict"] == "effective"
        });
    }
    let said = settled(&on_a_terminal(&world), &world);
    drop(agent);
    let drawn = drawn("sudo agent status", &said);
    fs::write(
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("status.svg"),
        &drawn,
    )
    .unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join(PICTURE);
    let committed = fs::read_to_string(committed).unwrap_or_default();
    assert!(
        committed == drawn,
        "docs/make-picture makes a picture of this:\n{said}"
    );
}
