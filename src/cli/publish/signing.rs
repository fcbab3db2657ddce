//! Who signs, what is signed, and what of it is signed already.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

use crate::cli::surroundings::{self, hinted};
use crate::host::ssh_keygen;
use crate::model::escape::escaped;
use crate::model::key::id::KeyId;
use crate::model::key::policy;
use crate::model::key::public_key::PublicKey;
use crate::model::list::bounds::{ADVANCED, STANDARD};
use crate::model::list::contents::Contents;
use crate::model::list::signing::{self, Known, Signature, Unfit, Wish};
use crate::model::list::statement::{Statement, is_audience};
use crate::model::signature::key_file::public_key;
use crate::model::signature::signers::{NAMESPACE, Signers};
use crate::model::signature::sshsig;

/// The options that are about signatures.
#[derive(Args)]
pub(super) struct Options {
    /// Sign with KEY: the file of a private key, or a .pub whose key is in ssh-agent or on a token
    #[arg(long = "sign", value_name = "KEY")]
    key: Option<PathBuf>,
    /// Add a signature to what another person signed, and change nothing that it says
    #[arg(long, requires = "key")]
    add_signature: bool,
    /// How long hosts take it, at most 365d, since a new host takes any list that has not expired [default: 90d]
    #[arg(
        long,
        value_name = "TIME",
        default_value = "90d",
        hide_default_value = true,
        value_parser = lifetime,
        requires = "key",
        conflicts_with = "add_signature"
    )]
    expires: SignedDuration,
    /// Its serial number, if not one more than the one before
    #[arg(long, value_name = "N", requires = "key")]
    serial: Option<u64>,
    /// For which hosts it is, as their `[policy] audience` says; "" for none [default: as before]
    #[arg(long, value_name = "WORD", value_parser = audience)]
    audience: Option<String>,
    /// Whose signatures count: a file as `[policy] signed-by` names it, which is the default
    #[arg(long, value_name = "FILE")]
    signers: Option<PathBuf>,
    /// How many signatures hosts ask for, if not as many as `[policy] signatures` says
    #[arg(long, value_name = "N")]
    signatures: Option<u32>,
}

fn lifetime(text: &str) -> Result<SignedDuration, &'static str> {
    let span: Result<Span, _> = text.parse();
    let time = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    match time.map(|time| time.as_secs()) {
        Ok(seconds) if (3600..=365 * DAY).contains(&seconds) => {
            Ok(SignedDuration::from_secs(seconds))
        }
        _ => Err("a time such as 90d is needed, from 1h to 365d"),
    }
}

/// In seconds.
const DAY: i64 = 24 * 3600;

/// `status` warns of a signature that expires within this time.
const SOON: i64 = 7 * DAY;

fn audience(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || is_audience(text) {
        Ok(text.to_owned())
    } else {
        Err("a word of letters, digits and . - _ is needed")
    }
}

/// The key that signs.
pub(super) struct Key {
    path: PathBuf,
    public: PublicKey,
    pub(super) id: KeyId,
}

/// Who signs and whose signatures count.
pub(super) struct Signing<'a> {
    pub(super) key: Option<Key>,
    pub(super) adds: bool,
    lasts: SignedDuration,
    wish: Wish<'a>,
    own_audience: Option<&'a str>,
    signers: Option<Signers>,
    /// How many signatures hosts ask for, as far as that is known here.
    needed: usize,
    now: Timestamp,
}

/// What will be signed, or is.
pub(super) struct Draft {
    pub(super) statement: Statement,
    /// It and the signatures that there are.
    text: String,
    /// Whose these are, of those that count.
    pub(super) signed_by: Vec<String>,
    signatures: usize,
}

impl<'a> Signing<'a> {
    pub(super) fn new(
        options: &'a Options,
        policy: Option<&'a policy::Signing>,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let file = options.signers.as_deref();
        let file = file.or(policy.map(|policy| policy.signed_by.as_path()));
        let key = options.key.as_deref().map(Key::read).transpose()?;
        let mut signers = file.map(read_signers).transpose()?;
        match (&key, &signers, file) {
            (Some(key), Some(signers), Some(file)) => {
                if let Some(fault) = signers.refuses(&key.public, now) {
                    let file = escaped(&file.display().to_string());
                    bail!("hosts would not count it: {fault}\n  hint: `{file}` says who may sign");
                }
            }
            (Some(_), None, _) if options.add_signature => bail!(
                "--add-signature must know whether the signature that is there counts\n  hint: name the file of those who may \
                 sign with --signers, as hosts have it in `[policy] signed-by`"
            ),
            (Some(key), None, _) => signers = Some(key.alone()?),
            _ => {}
        }
        let needed = options.signatures;
        let needed = needed.or(policy.map(|policy| policy.signatures));
        let needed = needed.unwrap_or(1).max(1);
        if key.is_some() && !options.add_signature && options.expires.as_secs() < SOON {
            let _ = writeln!(
                io::stderr(),
                "note: hosts warn a week before a signature expires, so of this one at once"
            );
        }
        Ok(Self {
            key,
            adds: options.add_signature,
            lasts: options.expires,
            wish: Wish {
                serial: options.serial,
                audience: options.audience.as_deref(),
            },
            own_audience: policy.and_then(|policy| policy.audience.as_deref()),
            signers,
            needed: usize::try_from(needed).unwrap_or(usize::MAX),
            now,
        })
    }

    /// What is signed at `place`, as far as it can be believed; of nobody's signature where nobody is known.
    pub(super) fn known(&self, stored: Option<&str>, scope: &str, place: &str) -> Known {
        self.known_of(stored, scope, place, self.needed)
    }

    fn known_of(&self, stored: Option<&str>, scope: &str, place: &str, needed: usize) -> Known {
        let needed = if self.signers.is_some() { needed } else { 0 };
        let read = |text| self.read(text, scope).and_then(|one| one.signed(needed));
        let place = escaped(place);
        stored.map(|text| read(text).map_err(|why| format!("`{place}` does not count: {why}")))
    }

    fn read(&self, text: &str, scope: &str) -> Result<Signature, String> {
        let none = Signers::default();
        let signers = self.signers.as_ref().unwrap_or(&none);
        Signature::read(text, scope, signers, self.now)
    }

    /// What is signed anew.
    pub(super) fn renew(
        &self,
        scope: &str,
        contents: Contents,
        known: &Known,
    ) -> anyhow::Result<Draft> {
        let (serial, audience) =
            signing::next(known, self.wish, self.own_audience).map_err(unfit)?;
        let issued = Timestamp::from_second(self.now.as_second())?;
        let statement = Statement {
            scope: scope.to_owned(),
            audience,
            serial,
            issued,
            expires: issued.checked_add(self.lasts)?,
            contents,
        };
        Ok(Draft {
            text: statement.text(),
            statement,
            signed_by: Vec::new(),
            signatures: 0,
        })
    }

    /// What was signed before, the text `stored` at `place`; and of what is published, where that is known, how far it counts
    /// for as many signatures as there will be.
    pub(super) fn take(
        &self,
        stored: &str,
        scope: &str,
        place: &str,
        published: Option<(Option<&str>, &str)>,
    ) -> anyhow::Result<(Draft, Known)> {
        let fault = |why: &str, hint: &str| {
            let place = escaped(place);
            anyhow!("`{place}` cannot be used: {why}\n  hint: {hint}")
        };
        let (anew, one_more) = (
            "sign it anew",
            "the next person signs it with --add-signature",
        );
        let signature = self.read(stored, scope).map_err(|why| fault(&why, anew))?;
        let needed = match &self.key {
            Some(key) => {
                let by_key = |one: &sshsig::SignedBy| one.fingerprint == key.id.fingerprint;
                if signature.good.iter().any(by_key) {
                    bail!(
                        "{} has signed it already\n  hint: it takes another key",
                        key.id
                    );
                }
                // A person adds nothing to what does not count.
                if !signature.faults.is_empty() {
                    return Err(fault(&signature.faults.join("; "), anew));
                }
                signature.good.len() + 1
            }
            None => self.needed,
        };
        let at_least = match (&self.key, &self.signers) {
            (Some(_), _) => 1,
            (None, Some(_)) => needed,
            (None, None) if signature.signatures() == 0 => {
                return Err(fault("it has no signature", anew));
            }
            (None, None) => 0,
        };
        let hint = if signature.faults.is_empty() {
            one_more
        } else {
            anew
        };
        let signature = signature
            .signed(at_least)
            .map_err(|why| fault(&why, hint))?;
        let known = match published {
            Some((text, at)) => self.known_of(text, scope, at, needed),
            None => None,
        };
        let signatures = signature.signatures();
        let statement = signature.statement;
        statement.check_time(self.now).map_err(unfit)?;
        let wanted = self.wish.audience.or(self.own_audience);
        if let Some(wanted) = wanted
            && statement.audience.as_deref().unwrap_or_default() != wanted
        {
            let said = statement.audience.as_deref().unwrap_or("none");
            return Err(fault(
                &format!("its audience is {said}, not {wanted}"),
                anew,
            ));
        }
        if published.is_some() {
            let follows = statement.check_follows(&known, self.key.is_some(), self.wish.serial);
            follows.map_err(unfit)?;
        }
        let good = signature.good.iter();
        let signed_by = good.map(|by| format!("{} {}", by.principals, by.fingerprint));
        let signed_by = signed_by.collect();
        let draft = Draft {
            statement,
            text: signature.text,
            signed_by,
            signatures,
        };
        Ok((draft, known))
    }

    /// The whole text, with a signature of the key if there is one. Asks a person what the key takes.
    pub(super) fn sign(&self, draft: Draft) -> anyhow::Result<String> {
        let Some(key) = &self.key else {
            return Ok(draft.text);
        };
        let text = draft.statement.text();
        let block = key.sign(&text)?;
        if let Some(signers) = &self.signers {
            let by = sshsig::verify(text.as_bytes(), block.trim_end(), signers, self.now);
            let by = by.context("hosts would not count what ssh-keygen made")?;
            if by.fingerprint != key.id.fingerprint {
                bail!("ssh-keygen signed with another key, {}", by.fingerprint);
            }
        }
        let before = draft.text.trim_end();
        Ok(format!("{before}\n{}", block.trim_end()))
    }
}

impl Key {
    /// Of a private key that is in a file the public half is all that is looked at.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = escaped(&path.display().to_string());
        let unreadable = || format!("cannot read the key `{shown}`");
        File::open(path).with_context(unreadable)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".pub");
        let text = match fs::read_to_string(&beside) {
            Ok(public) => public,
            Err(_) => fs::read_to_string(path).with_context(unreadable)?,
        };
        let Some((public, comment)) = public_key(&text) else {
            bail!(
                "`{shown}` holds no key that ssh-keygen signs with\n  hint: name the file of a private key in OpenSSH's format, or \
                 its .pub"
            );
        };
        let id = KeyId {
            fingerprint: public.fingerprint().to_owned(),
            algorithm: public.algorithm().to_owned(),
            comment,
        };
        Ok(Self {
            path: path.to_owned(),
            public,
            id,
        })
    }

    /// Where it is not said who may sign, it is the one that signs.
    fn alone(&self) -> anyhow::Result<Signers> {
        let line = format!("key {} {}", self.public.algorithm(), self.public.base64());
        let (signers, refused) = Signers::read(&line, &surroundings::zone());
        match refused.first() {
            Some(refused) => bail!(
                "{}: no host would count its signature: {}",
                self.id,
                refused.reason
            ),
            None => Ok(signers),
        }
    }

    fn sign(&self, text: &str) -> anyhow::Result<String> {
        let in_terminal = io::stdin().is_terminal() && !surroundings::has_askpass_wish();
        ssh_keygen::sign(&self.path, NAMESPACE, text, in_terminal).map_err(|error| {
            let hint = match &error {
                ssh_keygen::SignError::Missing => "install OpenSSH's client: openssh-client, openssh-clients".to_owned(),
                _ if self.path.extension().is_some_and(|end| end == "pub") => {
                    "it says why above; the key must be in ssh-agent, `ssh-add -l` shows those, or its private half beside the .pub".to_owned()
                }
                _ => "it says why above".to_owned(),
            };
            let what = format!("{} with {}", crate::host::chain(&error), self.id);
            hinted(what, Some(hint))
        })
    }
}

impl Draft {
    /// Whether what is known says it, with as many signatures.
    pub(super) fn is_said_by(&self, known: &Known) -> bool {
        matches!(known, Some(Ok(one)) if one.statement == self.statement && one.signatures() >= self.signatures)
    }

    /// Whether `text`, which is all of it, fits into a parameter.
    pub(super) fn check_size(text: &str, may_be_advanced: bool) -> anyhow::Result<()> {
        let bytes = text.len();
        let (message, blocks) = sshsig::blocks(text);
        let largest = blocks.iter().map(|block| block.len() + 1).max();
        let fit = |room: usize| (room - message.len()) / largest.unwrap_or(1);
        if bytes > ADVANCED {
            bail!(
                "what is signed has {bytes} bytes, more than the {ADVANCED} of a parameter: {} such signatures fit",
                fit(ADVANCED)
            );
        }
        if bytes > STANDARD && !may_be_advanced {
            bail!(
                "what is signed has {bytes} bytes, more than the {STANDARD} of a standard parameter: {} such signatures fit\n  \
                 hint: allow an advanced parameter with --tier advanced: AWS bills it",
                fit(STANDARD)
            );
        }
        Ok(())
    }
}

fn read_signers(file: &Path) -> anyhow::Result<Signers> {
    let shown = escaped(&file.display().to_string());
    let text = fs::read_to_string(file).with_context(|| {
        format!("cannot read who may sign, `{shown}`: --signers names another file")
    })?;
    let (signers, refused) = Signers::read(&text, &surroundings::zone());
    for line in refused {
        let _ = writeln!(io::stderr(), "{shown}:{}: note: {}", line.line, line.reason);
    }
    Ok(signers)
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unfit(error: Unfit) -> anyhow::Error {
    hinted(&error, error.hint())
}
