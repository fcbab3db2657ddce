//! Our reading of an authorized_keys line against that of the real sshd, row by row.

use std::fs;
use std::path::{Path, PathBuf};

use authorized_keys_agent::model::key::lenient::FoundLine;
use authorized_keys_agent::model::key::line::Line;
use authorized_keys_agent::model::key::mistake::explain;
use authorized_keys_agent::model::key::policy::Policy;
use tempfile::TempDir;

use crate::support::oracle::{Admission, Sshd, fingerprint};
use Expect::{Both, Dormant, Neither, Nothing, Ours, Stricter};

mod keys;
mod laws;

/// What we and sshd say of a line.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// We take it, and the key gets in, by the line as written and by the line as rendered, with equal options.
    Both,
    /// We take it, sshd reads it, and the key does not get in from here or now.
    Dormant,
    /// Blank or a comment.
    Nothing,
    /// We refuse it, with this in the message, and it does not let the key in.
    Neither(&'static str),
    /// We refuse it, with this in the message, although sshd takes it: deliberate, for the reason given.
    Stricter(&'static str, &'static str),
    /// We refuse it, with this in the message; what sshd does depends on its version.
    Ours(&'static str),
}

struct Row {
    line: Vec<u8>,
    /// The key that asks to be let in. `None` for a key that the client cannot load: then what counts is
    /// whether sshd finds fault with the line.
    offered: Option<String>,
    expect: Expect,
}

const NOT_A_KEY: &str = "not an authorized_keys line";
const INVISIBLE: &str = "invisible character before the key";
const NO_BREAK: &str = "a no-break space where a blank must be";
const CAPITALS: &str = "wants small letters";
const NO_BLANK: &str = "no blank between the key type and the key";
const NO_TYPE: &str = "write `ssh-ed25519` and a blank before it";
const QUOTED: &str = "the line is in quotes";
const SECOND_KEY: &str = "more than one key on the line";
const JOINED: &str = "a comment that a key follows";
const BASE64: &str = "not valid base64";
const DAMAGED: &str = "is damaged";
const OTHER_TYPE: &str = "of another type";
const OPEN: &str = "never closed";
const UNKNOWN: &str = "unknown option";
const QUOTES: &str = "must be in double quotes";
const JUNK: &str = "is not followed by a comma";
const TWICE: &str = "twice";
const HIDDEN: &str = "control or invisible character, or is not UTF-8";
const COMMA: &str = "a comma too many";
const FROM: &str = "the value of `from` is not usable";
const EXPIRY: &str = "the value of `expiry-time` is not usable";
const OPEN_TO: &str = "the value of `permitopen` is not usable";
const LISTEN: &str = "the value of `permitlisten` is not usable";
const TUNNEL: &str = "the value of `tunnel` is not usable";
const ENV: &str = "the value of `environment` is not usable";

const SPLITTERS: &str = "other programs split lines at it or show something else";
const SLIP: &str = "it is a slip of the pen, and readers differ";
const SPELLING: &str = "one spelling for one thing";
const SERVICES: &str = "it depends on /etc/services of the host";
const LOST: &str = "the second key is lost";

/// `%K` stands for the row's own key, `%B` for its base64, `%H` and `%T` for the two halves of that.
#[rustfmt::skip]
const LINES: &[(&[u8], Expect)] = &[
    // Blanks, and what looks like them.
    (b"%K", Both),
    (b"%K me@host", Both),
    (b" %K", Both),
    (b"\t%K", Both),
    (b" \t \t%K\tcomment", Both),
    (b"%K  \t ", Both),
    (b"%K\r", Both),
    (b"%K comment\r", Both),
    (b"ssh-ed25519\t%B", Both),
    (b"ssh-ed25519  \t %B  two  words", Both),
    (b"", Nothing),
    (b" \t ", Nothing),
    (b"\r", Nothing),
    (b"\r%K", Neither(INVISIBLE)),
    (b"\x0b%K", Neither(INVISIBLE)),
    (b"\x0c%K", Neither(INVISIBLE)),
    (b"\xc2\xa0%K", Neither(NO_BREAK)),
    (b"\xa0%K", Neither(NOT_A_KEY)),
    (b"\xef\xbb\xbf%K", Neither(INVISIBLE)),
    (b"\xef\xbb\xbfrestrict %K", Neither(INVISIBLE)),
    (b"\xff\xfe%K", Neither(NOT_A_KEY)),
    (b"\xe2\x80\x8b%K", Neither(INVISIBLE)),
    (b"ssh-ed25519\xc2\xa0%B", Neither(NO_BREAK)),
    (b"ssh-ed25519\x0c%B", Neither(NOT_A_KEY)),
    (b"restrict\xc2\xa0%K", Neither(NO_BREAK)),
    (b"restrict\r %K", Neither(NOT_A_KEY)),
    // Comments.
    (b"# %K", Nothing),
    (b"#%K", Nothing),
    (b" \t#%K", Nothing),
    (b"#\0%K", Nothing),
    (b"%K # no comment of the file", Both),
    (b"%K #", Both),
    (b"%K caf\xe9 \xc3\xa9", Both),
    (b"%K \xff\xfe\x1b[31m\x07", Both),
    (b"%K \xe2\x80\xa8ssh-rsa AAAA", Stricter(SECOND_KEY, LOST)),
    (b"%K \xe2\x80\xa8ssh-rsa", Both),
    // A second key, joined to the first.
    (b"%K me,%K you", Stricter(SECOND_KEY, LOST)),
    (b"%K me;%K", Stricter(SECOND_KEY, LOST)),
    (b"%K me\r%K you\r", Stricter(SECOND_KEY, LOST)),
    (b"%K me\\n%K", Stricter(SECOND_KEY, LOST)),
    (b"%K me\\r\\n%K", Stricter(SECOND_KEY, LOST)),
    (b"%K me%K", Stricter(SECOND_KEY, LOST)),
    (b"%K no-pty %K", Stricter(SECOND_KEY, LOST)),
    (b"%K %B", Stricter(SECOND_KEY, LOST)),
    (b"%K ssh-ed25519 %H", Stricter(SECOND_KEY, LOST)),
    (b"restrict %K me,restrict %K", Stricter(SECOND_KEY, LOST)),
    (b"%K,%K", Neither(SECOND_KEY)),
    (b"%K;%K", Neither(SECOND_KEY)),
    (b"%K\r%K", Neither(SECOND_KEY)),
    (b"%K\\n%K", Neither(SECOND_KEY)),
    (b"%K%K", Neither(SECOND_KEY)),
    (b"# team\r%K", Neither(JOINED)),
    (b"# team\rrestrict %K", Neither(JOINED)),
    (b"# team,%K", Neither(JOINED)),
    (b"# team\\nno-pty %K", Neither(JOINED)),
    (b"#restrict,no-pty %K", Nothing),
    (b"%K \"", Both),
    (b"%K %K", Stricter(SECOND_KEY, LOST)),
    // NUL ends the line for sshd.
    (b"%K comment\0rest", Stricter("a NUL byte", "what follows is invisible to sshd and visible to people")),
    (b"%K\0", Stricter("a NUL byte", "what follows is invisible to sshd and visible to people")),
    (b"\0%K", Neither("a NUL byte")),
    (b"ssh-ed25519 \0%B", Neither("a NUL byte")),
    (b"restrict\0 %K", Neither("a NUL byte")),
    // Types and base64.
    (b"ssh-ed25519 %H\r%T", Both),
    (b"ssh-ed25519 %H\x0b%T", Both),
    (b"ssh-ed25519 %H\x0c%T\x0c", Both),
    (b"ssh-ed25519 %H %T", Neither(BASE64)),
    (b"ssh-ed25519 %H", Neither(BASE64)),
    (b"ssh-ed25519 %B=", Neither(BASE64)),
    (b"ssh-ed25519 %B====", Neither(BASE64)),
    (b"ssh-ed25519 %BAA==", Neither(DAMAGED)),
    (b"ssh-ed25519 %B%B", Neither(DAMAGED)),
    (b"ssh-ed25519 *%B", Neither(BASE64)),
    (b"ssh-ed25519 \"%B\"", Neither(BASE64)),
    (b"ssh-ed25519 AAAA", Neither(OTHER_TYPE)),
    (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", Neither(DAMAGED)),
    (b"ssh-ed25519", Neither("is not followed by a key")),
    (b"ssh-ed25519 \t", Neither("is not followed by a key")),
    (b"ssh-rsa %B", Neither(OTHER_TYPE)),
    (b"ssh-foo@example.com %B", Neither(NOT_A_KEY)),
    (b"SSH-ED25519 %B", Neither(CAPITALS)),
    (b"ssh-ed25519%B", Neither(NO_BLANK)),
    (b"\"%K\"", Neither(QUOTED)),
    (b"'%K'", Neither(QUOTED)),
    (b"ED25519 %B", Neither(NOT_A_KEY)),
    (b"ssh-ed25519 ssh-ed25519 %B", Neither(BASE64)),
    (b"ssh-ed25519,%B", Neither(NOT_A_KEY)),
    (b"%B", Neither(NO_TYPE)),
    (b"%B %K", Neither(SECOND_KEY)),
    (b"AAAA== %K", Neither(NOT_A_KEY)),
    (b"foo %K", Neither(NOT_A_KEY)),
    (b"foo bar %K", Neither(NOT_A_KEY)),
    (b"restrict foo %K", Neither(NOT_A_KEY)),
    (b"restrict restrict %K", Neither(NOT_A_KEY)),
    (b"restrict", Neither("options without a key")),
    // Flags.
    (b"restrict %K", Both),
    (b"restrict\t%K", Both),
    (b"restrict \t %K comment", Both),
    (b"cert-authority %K", Dormant),
    (b"agent-forwarding %K", Both),
    (b"no-agent-forwarding %K", Both),
    (b"port-forwarding %K", Both),
    (b"no-port-forwarding %K", Both),
    (b"pty %K", Both),
    (b"no-pty %K", Both),
    (b"user-rc %K", Both),
    (b"no-user-rc %K", Both),
    (b"X11-forwarding %K", Both),
    (b"no-X11-forwarding %K", Both),
    (b"touch-required %K", Both),
    (b"no-touch-required %K", Both),
    (b"verify-required %K", Both),
    (b"no-verify-required %K", Both),
    (b"RESTRICT %K", Both),
    (b"ReStRiCt,No-PTY,nO-uSeR-rC %K", Both),
    (b"restrict,pty %K", Both),
    (b"pty,restrict %K", Both),
    (b"no-pty,pty %K", Both),
    (b"restrict,restrict %K", Stricter(TWICE, SLIP)),
    (b"no-pty,no-pty %K", Stricter(TWICE, SLIP)),
    (b"no-restrict %K", Neither(UNKNOWN)),
    (b"no-cert-authority %K", Neither(UNKNOWN)),
    (b"no-no-pty %K", Neither(UNKNOWN)),
    (b"no-command=\"x\" %K", Neither(UNKNOWN)),
    (b"ptyy %K", Neither(NOT_A_KEY)),
    (b"pt %K", Neither(NOT_A_KEY)),
    (b"restrict,no_pty %K", Neither(UNKNOWN)),
    (b"restrict,permit-pty %K", Neither(UNKNOWN)),
    (b"restrict=\"yes\" %K", Neither("takes no value")),
    (b"no-pty=no %K", Neither("takes no value")),
    (b"pty\"\" %K", Neither(JUNK)),
    (b"zos-key-ring-label=\"x\" %K", Neither(UNKNOWN)),
    (b"foo,no-pty %K", Neither(UNKNOWN)),
    // Commas.
    (b",restrict %K", Stricter(COMMA, SLIP)),
    (b"restrict, %K", Stricter(COMMA, SLIP)),
    (b"restrict,,pty %K", Stricter(COMMA, SLIP)),
    (b", %K", Stricter(COMMA, SLIP)),
    (b"restrict ,pty %K", Neither(NOT_A_KEY)),
    (b"restrict, pty %K", Neither(COMMA)),
    (b"restrict;pty %K", Neither(NOT_A_KEY)),
    // Quotes.
    (b"command=\"ls\" %K", Both),
    (b"COMMAND=\"ls\" %K", Both),
    (b"command=\"\" %K", Both),
    (b"command=\"a b, c=d # e\" %K", Both),
    (b"command=\"echo \\\"a b\\\"\" %K", Both),
    (b"command=\"a\\b\\\\c\" %K", Both),
    (b"command=\"a\\\\\"b\" %K", Both),
    (b"command=\"a\\\\\\\"b\" %K", Both),
    (b"command=\"gr\xc3\xbc\xc3\x9fe\",no-pty %K", Both),
    (b"command=\"ssh-ed25519 AAAA\" %K", Both),
    (b"command=\"a\tb\" %K", Both),
    (b"command=\"a\rb\" %K", Stricter(HIDDEN, SPLITTERS)),
    (b"command=\"a\x0bb\" %K", Stricter(HIDDEN, SPLITTERS)),
    (b"command=\"a\x1bb\" %K", Stricter(HIDDEN, SPLITTERS)),
    (b"command=\"a\xe2\x80\xa8b\" %K", Stricter(HIDDEN, SPLITTERS)),
    (b"command=\"a\xe2\x80\xaeb\" %K", Stricter(HIDDEN, SPLITTERS)),
    (b"command=\"a\xffb\" %K", Stricter(HIDDEN, SPLITTERS)),
    (b"command %K", Neither("needs a value")),
    (b"command= %K", Neither(QUOTES)),
    (b"command=ls %K", Neither(QUOTES)),
    (b"command='ls' %K", Neither(QUOTES)),
    (b"command=\"ls %K", Neither(OPEN)),
    (b"command=\"ls\\\" %K", Neither(OPEN)),
    (b"command=ls\" %K", Neither(OPEN)),
    (b"command=\"a\"b %K", Neither(JUNK)),
    (b"command=\"a\"\"b\" %K", Neither(JUNK)),
    (b"command=\"a\"\\\" %K", Neither(JUNK)),
    (b"command=\"a\"no-pty %K", Neither(JUNK)),
    (b"command =\"a\" %K", Neither("needs a value")),
    (b"command= \"a\" %K", Neither(QUOTES)),
    (b"command=\"a\" ,pty %K", Neither(NOT_A_KEY)),
    (b"command=\"a\",command=\"b\" %K", Neither(TWICE)),
    (b"\"command\"=\"ls\" %K", Neither("")),
    (b"\\\"restrict %K", Neither("")),
    // from: the peer is 127.0.0.1.
    (b"from=\"127.0.0.1\" %K", Both),
    (b"FROM=\"127.0.0.1\" %K", Both),
    (b"from=\"127.0.0.1/32\" %K", Both),
    (b"from=\"127.0.0.0/8\" %K", Both),
    (b"from=\"127.0.0.0/08\" %K", Both),
    (b"from=\"0.0.0.0/0\" %K", Both),
    (b"from=\"*\" %K", Both),
    (b"from=\"127.*,10.?.0.1\" %K", Both),
    (b"from=\"127.1\" %K", Both),
    (b"from=\"fe80::/10,127.0.0.1\" %K", Both),
    (b"from=\"!10.0.0.1,127.0.0.1\" %K", Both),
    (b"from=\"!127.0.0.1,*\" %K", Dormant),
    (b"from=\"10.0.0.0/8\" %K", Dormant),
    (b"from=\"::1/128\" %K", Dormant),
    (b"from=\"::/0\" %K", Dormant),
    (b"from=\"fe80::1%eth0,host-1.example.com\" %K", Dormant),
    (b"from=\"127.0.0.1/8\" %K", Neither("outside its mask")),
    (b"from=\"127.0.0.1,10.0.0.1/8\" %K", Neither("outside its mask")),
    (b"from=\"127.0.0.1,fe80::1/10\" %K", Neither("outside its mask")),
    (b"from=\"127.0.0.0/33\" %K", Neither(FROM)),
    (b"from=\"127.0.0.0/\" %K", Neither(FROM)),
    (b"from=\"127.0.0.0/+8\" %K", Neither(FROM)),
    (b"from=\"127.0.0.0/8x\" %K", Neither(FROM)),
    (b"from=\"127.0.0.1,\" %K", Neither(FROM)),
    (b"from=\",127.0.0.1\" %K", Neither(FROM)),
    (b"from=\"127.0.0.1,!\" %K", Neither(FROM)),
    (b"from=\"\" %K", Neither(FROM)),
    (b"from=\"!10.0.0.1\" %K", Neither("only exclusions")),
    (b"from=\"!10.0.0.0/8,!*.example.com\" %K", Neither("only exclusions")),
    (b"from=\"127.0.0.1 10.0.0.1\" %K", Neither(FROM)),
    (b"from=\"127.0.0.1, 10.0.0.1\" %K", Stricter(FROM, "sshd ignores the entry with the blank")),
    (b"from=\"127.0.0.1,[::1]\" %K", Stricter(FROM, "sshd ignores the entry in brackets")),
    (b"from=\"127.0.0.1,host/8\" %K", Stricter(FROM, "sshd ignores the entry")),
    (b"from=\"127.0/8\" %K", Stricter(FROM, SPELLING)),
    (b"from=127.0.0.1 %K", Neither(QUOTES)),
    (b"from=\"127.0.0.1\",from=\"*\" %K", Neither(TWICE)),
    // expiry-time.
    (b"expiry-time=\"20990101\" %K", Both),
    (b"expiry-time=\"209901012359\" %K", Both),
    (b"expiry-time=\"20990101235959\" %K", Both),
    (b"expiry-time=\"20990101Z\" %K", Both),
    (b"expiry-time=\"209901012359Z\" %K", Both),
    (b"expiry-time=\"20990101235959Z\" %K", Both),
    (b"expiry-time=\"20990101z\" %K", Both),
    (b"expiry-time=\"20990101UTC\" %K", Both),
    (b"expiry-time=\"20990101utc\" %K", Both),
    (b"Expiry-Time=\"99991231Z\" %K", Both),
    (b"expiry-time=\"20960229Z\" %K", Both),
    (b"expiry-time=\"20200101Z\" %K", Dormant),
    (b"expiry-time=\"19710101\" %K", Dormant),
    (b"expiry-time=\"19700101Z\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"19690101Z\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"20990231Z\" %K", Stricter(EXPIRY, "no such day; sshd counts on into March")),
    (b"expiry-time=\"20990101235960Z\" %K", Stricter(EXPIRY, "no such second")),
    (b"expiry-time=\"2099 1 1Z\" %K", Stricter(EXPIRY, SPELLING)),
    (b"expiry-time=\"20990101Z\",expiry-time=\"20980101Z\" %K", Stricter(TWICE, "the earlier one counts, who knows")),
    (b"expiry-time=\"20991301Z\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"20990132Z\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"209901012400Z\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"209901012360Z\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"2099\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"2099-01-01\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"2099010112\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"20990101 \" %K", Neither(EXPIRY)),
    (b"expiry-time=\"20990101ZZ\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"20990101GMT\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"+52w\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"always\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"Z\" %K", Neither(EXPIRY)),
    (b"expiry-time=\"\" %K", Neither(EXPIRY)),
    (b"expiry-time=20990101 %K", Neither(QUOTES)),
    // permitopen and permitlisten.
    (b"permitopen=\"db-1.example.com:5432\" %K", Both),
    (b"permitopen=\"[::1]:22\" %K", Both),
    (b"permitopen=\"*:*\" %K", Both),
    (b"permitopen=\"db:0022\",permitopen=\"db:65535\" %K", Both),
    (b"permitopen=\"db\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"22\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"db:\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"db:0\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"db:65536\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"db:-1\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"db:22:23\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"::1:22\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"[::1]\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"[::1]22\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"[::1:22\" %K", Neither(OPEN_TO)),
    (b"permitopen=\"\" %K", Neither(OPEN_TO)),
    (b"permitopen=db:22 %K", Neither(QUOTES)),
    (b"permitopen=\":22\" %K", Stricter(OPEN_TO, "no host can be meant")),
    (b"permitopen=\"db:ssh\" %K", Stricter(OPEN_TO, SERVICES)),
    (b"permitopen=\"db/22\" %K", Stricter(OPEN_TO, SPELLING)),
    (b"permitopen=\"db:+22\" %K", Stricter(OPEN_TO, SPELLING)),
    (b"permitopen=\"d b:22\" %K", Stricter(OPEN_TO, "no host has a blank in its name")),
    (b"permitopen=\"[db]:22\" %K", Stricter(OPEN_TO, SPELLING)),
    (b"permitlisten=\"8080\" %K", Both),
    (b"permitlisten=\"*\" %K", Both),
    (b"permitlisten=\"localhost:8080\",permitlisten=\"[::1]:*\" %K", Both),
    (b"permitlisten=\"localhost\" %K", Neither(LISTEN)),
    (b"permitlisten=\"0\" %K", Neither(LISTEN)),
    (b"permitlisten=\"\" %K", Neither(LISTEN)),
    (b"permitlisten=\"ssh\" %K", Stricter(LISTEN, SERVICES)),
    // tunnel, environment, principals.
    (b"tunnel=\"0\" %K", Both),
    (b"tunnel=\"01\" %K", Both),
    (b"tunnel=\"any\" %K", Both),
    (b"tunnel=\"2147483645\" %K", Both),
    (b"tunnel=\"2147483646\" %K", Neither(TUNNEL)),
    (b"tunnel=\"-1\" %K", Neither(TUNNEL)),
    (b"tunnel=\"x\" %K", Neither(TUNNEL)),
    (b"tunnel=\"\" %K", Neither(TUNNEL)),
    (b"tunnel=\"ANY\" %K", Stricter(TUNNEL, SPELLING)),
    (b"tunnel=\"+1\" %K", Stricter(TUNNEL, SPELLING)),
    (b"tunnel=\"0\",tunnel=\"1\" %K", Stricter(TWICE, "the last one counts, who knows")),
    (b"environment=\"A=b\" %K", Both),
    (b"environment=\"A=\" %K", Both),
    (b"environment=\"_9=x=y z\",environment=\"9=1\" %K", Both),
    (b"environment=\"A=1\",environment=\"A=2\" %K", Both),
    (b"environment=\"A\" %K", Neither(ENV)),
    (b"environment=\"=x\" %K", Neither(ENV)),
    (b"environment=\"A-B=x\" %K", Neither(ENV)),
    (b"environment=\"A =x\" %K", Neither(ENV)),
    (b"environment=\"\xc3\x84=x\" %K", Neither(ENV)),
    (b"principals=\"alice\" %K", Neither("only for `cert-authority`")),
    (b"cert-authority,principals=\"alice,bob\" %K", Dormant),
    (b"cert-authority,principals=\"a\",principals=\"b\" %K", Neither(TWICE)),
];

/// Keys of other types than ed25519, and damaged ones.
fn special(sshd: &Sshd) -> Vec<Row> {
    use keys::*;
    let sk = |algorithm: &str, application: &[u8]| match algorithm {
        SK_ECDSA => key(
            SK_ECDSA,
            SK_ECDSA,
            &[b"nistp256", &point(P256, false), application],
        ),
        _ => key(SK_ED25519, SK_ED25519, &[&[9; 32], application]),
    };
    let offer = |line: String, expect| {
        let offered = line.split(' ').rev().take(2).collect::<Vec<_>>();
        let offered = Some(format!(
            "{} {}",
            offered[1].replace("rsa-sha2-256", "ssh-rsa"),
            offered[0]
        ));
        Row {
            line: line.into_bytes(),
            offered,
            expect,
        }
    };
    let read = |line: String, expect| Row {
        line: line.into_bytes(),
        offered: None,
        expect,
    };
    let mut off_curve = point(P256, false);
    off_curve[64] ^= 1;
    let certificate = sshd.certificate();
    let plain = fs::read_to_string(certificate.with_file_name("probe.pub")).unwrap();
    let other_inner = key("ssh-rsa", "rsa-sha2-256", &[&[1, 0, 1], &modulus(3072)]);
    vec![
        offer(ecdsa(P256, &point(P256, false)), Both),
        offer(ecdsa(P384, &point(P384, false)), Both),
        offer(ecdsa(P521, &point(P521, false)), Both),
        read(ecdsa(P256, &point(P256, true)), Neither(DAMAGED)),
        read(ecdsa(P384, &point(P384, true)), Neither(DAMAGED)),
        read(ecdsa(P521, &point(P521, true)), Neither(DAMAGED)),
        read(ecdsa(P256, &off_curve), Neither(DAMAGED)),
        read(ecdsa(P256, &[0]), Neither(DAMAGED)),
        read(ecdsa(P256, &[]), Neither(DAMAGED)),
        read(ecdsa(P256, &small_point()), Neither(DAMAGED)),
        read(ecdsa(P384, &point(P256, false)), Neither(DAMAGED)),
        read(
            key(P256, P256, &[b"nistp384", &point(P384, false)]),
            Neither(DAMAGED),
        ),
        read(
            key(P384, P256, &[b"nistp256", &point(P256, false)]),
            Neither(OTHER_TYPE),
        ),
        read(
            key(P256, P256, &[b"nistp256", &point(P256, false), b"more"]),
            Neither(DAMAGED),
        ),
        offer(sk(SK_ED25519, b"ssh:"), Both),
        offer(
            format!(
                "verify-required,no-touch-required {}",
                sk(SK_ED25519, b"ssh:work")
            ),
            Both,
        ),
        offer(sk(SK_ECDSA, b"ssh:"), Both),
        offer(sk(SK_ED25519, b""), Both),
        read(sk(SK_ED25519, b"ssh:\0more"), Neither(DAMAGED)),
        read(sk(SK_ED25519, b"ssh:\0"), Both),
        read(sk(SK_ED25519, b"ssh:\xff"), Stricter(DAMAGED, "not text")),
        read(
            sk(SK_ECDSA, b"ssh:").replace(SK_ECDSA, "webauthn-sk-ecdsa-sha2-nistp256@openssh.com"),
            Both,
        ),
        read(key(SK_ED25519, SK_ED25519, &[&[9; 32]]), Neither(DAMAGED)),
        read(
            key(SK_ED25519, SK_ED25519, &[&[9; 31], b"ssh:"]),
            Neither(DAMAGED),
        ),
        read(
            key("ssh-ed25519", "ssh-ed25519", &[&[9; 31]]),
            Neither(DAMAGED),
        ),
        read(
            key("ssh-ed25519", "ssh-ed25519", &[&[9; 33]]),
            Neither(DAMAGED),
        ),
        read(rsa("ssh-rsa", 768), Neither("768 bits")),
        read(rsa("ssh-rsa", 1023), Neither("1023 bits")),
        offer(rsa("ssh-rsa", 1024), Both),
        offer(rsa("ssh-rsa", 2048), Both),
        offer(rsa("ssh-rsa", 3071), Both),
        offer(rsa("ssh-rsa", 4096), Both),
        offer(rsa("ssh-rsa", 16_384), Both),
        read(rsa("ssh-rsa", 16_385), Neither("16385 bits")),
        offer(rsa("rsa-sha2-256", 2056), Both),
        read(rsa("rsa-sha2-512", 2064), Both),
        read(rsa("RSA-SHA2-512", 2064), Neither(CAPITALS)),
        read(other_inner.clone(), Both),
        read(other_inner.replace("ssh-rsa ", "rsa-sha2-256 "), Both),
        read(
            key(
                "ssh-rsa",
                "ssh-rsa",
                &[&[1, 0, 1], &[&[0][..], &modulus(2048)].concat()],
            ),
            Both,
        ),
        read(
            key("ssh-rsa", "ssh-rsa", &[&[1, 0, 1], &modulus(2048)[1..]]),
            Neither(DAMAGED),
        ),
        read(
            key("ssh-rsa", "ssh-rsa", &[&[1], &modulus(2048)]),
            Stricter(DAMAGED, "the padded digest is its own signature"),
        ),
        read(
            key("ssh-rsa", "ssh-rsa", &[&[], &modulus(2048)]),
            Stricter(DAMAGED, "no signature can be good"),
        ),
        read(
            key("ssh-rsa", "ssh-rsa", &[&[1, 0, 0], &modulus(2048)]),
            Stricter(DAMAGED, "no such key exists"),
        ),
        read(
            key("ssh-rsa", "ssh-rsa", &[&[3; 9], &modulus(4096)]),
            Stricter(
                DAMAGED,
                "OpenSSL verifies no signature of it: rsa_ossl.c, OPENSSL_RSA_MAX_PUBEXP_BITS",
            ),
        ),
        read(
            key("ssh-rsa", "ssh-rsa", &[&modulus(2048)]),
            Neither(DAMAGED),
        ),
        // The type in the blob may be a short name in any case, and have a NUL at its end.
        read(key("ssh-ed25519", "ed25519", &[&[9; 32]]), Both),
        read(key("ssh-ed25519", "ssh-ed25519\0", &[&[9; 32]]), Both),
        read(key("ssh-rsa", "Rsa", &[&[1, 0, 1], &modulus(2048)]), Both),
        read(
            key("rsa-sha2-512", "RSA\0", &[&[0, 1, 0, 1], &modulus(2048)]),
            Both,
        ),
        read(key(SK_ED25519, "ed25519-sk", &[&[9; 32], b"ssh:\0"]), Both),
        read(key("ED25519", "ED25519", &[&[9; 32]]), Neither(NOT_A_KEY)),
        read(
            key(
                SK_ECDSA,
                "ECDSA-SK",
                &[b"nistp256", &point(P256, false), b"ssh:"],
            ),
            Neither(OTHER_TYPE),
        ),
        read(
            key(
                "ssh-dss",
                "ssh-dss",
                &[&modulus(1024), &modulus(160), &[2], &modulus(1020)],
            ),
            Ours("a DSA key"),
        ),
        read(
            "ssh-ed448 AAAACXNzaC1lZDQ0OAAAAAEA".to_owned(),
            Neither("not in `[policy] algorithms`"),
        ),
        Row {
            line: fs::read(certificate).unwrap().trim_ascii_end().to_vec(),
            offered: Some(plain.trim_end().to_owned()),
            expect: Neither("a certificate, not a key"),
        },
    ]
}

/// Replaces `%K`, `%B`, `%H` and `%T` by an ed25519 key that only this row has.
fn row(number: usize, (template, expect): &(&[u8], Expect)) -> Row {
    let key = keys::ed25519(number);
    let base64 = key.split(' ').nth(1).unwrap();
    let (half, rest) = base64.split_at(34);
    let mut line = Vec::new();
    let mut bytes = *template;
    while let [first, ..] = bytes {
        let (piece, length) = match bytes {
            [b'%', b'K', ..] => (key.as_bytes(), 2),
            [b'%', b'B', ..] => (base64.as_bytes(), 2),
            [b'%', b'H', ..] => (half.as_bytes(), 2),
            [b'%', b'T', ..] => (rest.as_bytes(), 2),
            _ => (std::slice::from_ref(first), 1),
        };
        line.extend_from_slice(piece);
        bytes = &bytes[length..];
    }
    Row {
        line,
        offered: Some(key),
        expect: *expect,
    }
}

/// A policy that allows all options and small keys, so that the grammar alone decides.
fn wide() -> Policy {
    let mut policy = Policy {
        min_rsa_bits: 1024,
        ..Policy::default()
    };
    let more = [
        "cert-authority",
        "environment",
        "no-touch-required",
        "no-verify-required",
        "principals",
        "touch-required",
        "tunnel",
    ];
    policy.options.extend(more.map(str::to_owned));
    policy
}

/// The rendered line, `None` for a comment or a blank, or why we refuse it.
fn ours(line: &[u8], policy: &Policy) -> Result<Option<String>, String> {
    match Line::read(line).map_err(|error| explain(&error, line, &[]).0)? {
        Line::Key(key) => policy
            .judge(&key)
            .map(|()| Some(key.to_string()))
            .map_err(|error| error.to_string()),
        Line::Blank | Line::Comment => Ok(None),
    }
}

/// What sshd makes of a file with one row a line: how each row's key gets in, and whether the line is sound.
fn sshds(sshd: &Sshd, file: &Path, rows: &[Row]) -> Vec<(Option<Admission>, bool)> {
    let offered: Vec<String> = rows.iter().filter_map(|row| row.offered.clone()).collect();
    let mut admissions = sshd.admissions(file, &offered).into_iter();
    let refused = sshd.refused(file);
    let rows = rows.iter().zip(1..);
    rows.map(|(row, line)| {
        let admission = row
            .offered
            .as_ref()
            .and_then(|_| admissions.next().unwrap());
        (admission, !refused.contains_key(&line))
    })
    .collect()
}

fn write_lines<'a>(dir: &TempDir, name: &str, lines: impl Iterator<Item = &'a [u8]>) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(
        &path,
        lines
            .flat_map(|line| [line, b"\n"].concat())
            .collect::<Vec<u8>>(),
    )
    .unwrap();
    path
}

#[test]
fn every_row_is_as_sshd_has_it() {
    let sshd = Sshd::new();
    let dir = tempfile::tempdir().unwrap();
    let mut rows: Vec<Row> = LINES
        .iter()
        .enumerate()
        .map(|(number, line)| row(number, line))
        .collect();
    rows.extend(special(&sshd));

    let policy = wide();
    let ours: Vec<_> = rows.iter().map(|row| ours(&row.line, &policy)).collect();
    let written = write_lines(&dir, "written", rows.iter().map(|row| row.line.as_slice()));
    // One line a row here too, so that the numbers agree: empty for what we refuse.
    let lines = ours.iter().map(|ours| {
        ours.as_ref()
            .ok()
            .and_then(Option::as_deref)
            .unwrap_or("")
            .as_bytes()
    });
    let rendered = write_lines(&dir, "rendered", lines);
    let (written, rendered) = (
        sshds(&sshd, &written, &rows),
        sshds(&sshd, &rendered, &rows),
    );

    let mut wrong = Vec::new();
    for (((row, ours), written), rendered) in rows.iter().zip(&ours).zip(&written).zip(&rendered) {
        let takes = |(admission, sound): &(Option<Admission>, bool)| match row.offered {
            Some(_) => admission.is_some(),
            None => *sound,
        };
        let says = |part: &str| ours.as_ref().is_err_and(|error| error.contains(part));
        let kept = matches!(ours, Ok(Some(_)));
        let good = match row.expect {
            Both => kept && takes(written) && written == rendered,
            Dormant => kept && written == &(None, true) && written == rendered,
            Nothing => ours == &Ok(None) && !takes(written),
            Neither(part) => says(part) && !takes(written),
            Stricter(part, why) => says(part) && takes(written) && !why.is_empty(),
            Ours(part) => says(part),
        };
        let leaks = !kept && rendered.0.is_some();
        if !good || leaks {
            let (line, expect) = (row.line.escape_ascii(), row.expect);
            wrong.push(format!(
                "{line}\n  {expect:?}\n  we: {ours:?}\n  sshd: {written:?}, rendered: {rendered:?}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} rows:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

/// What is found is named in whatever spelling sshd takes, by the fingerprint that sshd logs.
#[test]
fn every_key_that_sshd_takes_is_seen() {
    let sshd = Sshd::new();
    let mut rows: Vec<Row> = LINES
        .iter()
        .enumerate()
        .map(|(number, line)| row(number, line))
        .collect();
    rows.extend(special(&sshd));
    let mut wrong = Vec::new();
    for row in &rows {
        let found = FoundLine::read(&row.line);
        let shown = row.line.split(|b| *b == 0).next().unwrap();
        let good = match (row.expect, &found) {
            (Both | Dormant | Stricter(..), FoundLine::Key(key)) => {
                let offered = row.offered.as_deref().map(fingerprint);
                Some(&key.fingerprint) == offered.or_else(|| sshd.fingerprint(shown)).as_ref()
            }
            (Both | Dormant | Stricter(..), _) => false,
            (Nothing, found) => *found == FoundLine::Nothing,
            // An sshd of another version may take it: it is named or counted.
            (Neither(_) | Ours(_), found) => {
                *found != FoundLine::Nothing || shown.is_empty() || shown.starts_with(b"#")
            }
        };
        if !good {
            wrong.push(format!(
                "{}\n  {:?}\n  {found:?}",
                row.line.escape_ascii(),
                row.expect
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} rows:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

#[test]
fn the_default_policy_says_what_it_refuses() {
    let key = keys::ed25519(0);
    let options = [
        "cert-authority",
        "environment=\"A=b\"",
        "no-touch-required",
        "principals=\"a\"",
        "tunnel=\"0\"",
    ];
    let mut rows = options
        .map(|option| (format!("{option} {key}"), "is not in `[policy] options`"))
        .to_vec();
    rows.push((
        keys::rsa("ssh-rsa", 3071),
        "an RSA key of 3071 bits, `[policy] min-rsa-bits` asks for 3072",
    ));
    rows.push((keys::key("ssh-dss", "ssh-dss", &[b"p"]), "a DSA key"));
    for (line, why) in rows {
        let refused = ours(line.as_bytes(), &Policy::default()).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    assert!(ours(keys::rsa("ssh-rsa", 3072).as_bytes(), &Policy::default()).is_ok());
}

#[test]
fn what_the_default_policy_takes_logs_in() {
    let sshd = Sshd::new();
    let dir = tempfile::tempdir().unwrap();
    for (number, args) in [
        &["-t", "ed25519"][..],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "rsa", "-b", "3072"],
    ]
    .into_iter()
    .enumerate()
    {
        let identity = sshd.keygen(&format!("identity{number}"), args);
        let public = fs::read_to_string(identity.with_extension("pub")).unwrap();
        for options in [
            "",
            "restrict,command=\"false \\\"\\\"\",expiry-time=\"20990101UTC\",from=\"127.0.0.0/8\" ",
        ] {
            let line = ours(
                format!("\t{options}{public}").trim_end().as_bytes(),
                &Policy::default(),
            )
            .unwrap()
            .unwrap();
            let file = write_lines(&dir, "authorized_keys", [line.as_bytes()].into_iter());
            assert!(sshd.login(&file, &identity), "{line}");
        }
        let nobody = write_lines(
            &dir,
            "authorized_keys",
            [keys::ed25519(0).as_bytes()].into_iter(),
        );
        assert!(!sshd.login(&nobody, &identity));
    }
}

#[test]
fn strict_modes_look_at_the_file_too() {
    let sshd = Sshd::strict();
    let home = nix::unistd::User::from_uid(nix::unistd::getuid())
        .unwrap()
        .unwrap()
        .dir;
    let dir = tempfile::tempdir_in(&home).unwrap();
    let file = write_lines(
        &dir,
        "authorized_keys",
        [keys::ed25519(1).as_bytes()].into_iter(),
    );
    let admitted = || sshd.admissions(&file, &[keys::ed25519(1)])[0].is_some();
    assert!(admitted());
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert!(!admitted(), "StrictModes is not in force");
}
