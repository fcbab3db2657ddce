//! Users and programs that mean no harm: what they did before works as before, and the file says why their change is gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::support::world::{ALICE, World, key, litter, pair, shell_as, shown, wait};

/// Stands for `ssh` as `ssh-copy-id` calls it: the command for the other host is run here, in the home.
const SSH: &str = "for command; do :; done\n\
    case $command in *authorized_keys*) cd \"$HOME\" && exec sh -c \"$command\" ;; esac\n\
    exit 255";

/// What is done to the file `$f` with the line `$k`, each by its own way of writing.
const WAYS: [(&str, &str); 9] = [
    ("ssh-copy-id", "ssh-copy-id -f -i \"$id\" host"),
    ("a shell", "echo \"$k\" >> $f"),
    ("tee", "echo \"$k\" | tee -a $f > /dev/null"),
    ("sed", "sed -i \"\\$a $k\" $f"),
    ("perl", "perl -i -pe '$_ = \"\" if /alice/' $f"),
    (
        "an editor that writes anew and renames",
        "{ cat $f; echo \"$k\"; } > $f.new && mv $f.new $f",
    ),
    (
        "an editor that keeps the old file until the new one is whole",
        "cp $f $f~ && { cat $f~; echo \"$k\"; } > $f && rm $f~",
    ),
    (
        "cloud-init",
        "python3 -c 'import os, sys; name, line = sys.argv[1:]; text = open(name).read(); \
         out = open(name, \"wb\"); out.write((text + line + \"\\n\").encode()); out.flush(); out.close(); \
         os.chmod(name, 0o600)' $f \"$k\"",
    ),
    (
        "ansible",
        "python3 -c 'import os, shutil, sys, tempfile; name, line = sys.argv[1:]; text = open(name).read(); \
         made, new = tempfile.mkstemp(dir=os.path.dirname(name)); os.write(made, (text + line + \"\\n\").encode()); \
         os.close(made); shutil.copymode(name, new); os.chown(new, os.getuid(), os.getgid()); os.rename(new, name)' $f \"$k\"",
    ),
];

#[test]
fn what_people_and_programs_do_to_the_file_works_and_the_file_says_why_it_is_gone() {
    let world = World::new();
    world.approve("alice", "laptop", &key("alice"));
    let agent = world.start();
    let (file, right) = (world.file("alice"), world.read("alice"));
    world.stand_in("ssh", SSH);
    let (directory, line) = pair("somebody");
    let id = directory.path().join("id.pub");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (what, script) in WAYS {
        let repaired = || world.status()["drift"]["repaired"].as_u64().unwrap();
        let before = repaired();
        let settings = format!(
            "export HOME={} PATH={}:$PATH f={} id={} k='{line}'",
            world.home("alice").display(),
            world.path("bin").display(),
            file.display(),
            id.display(),
        );
        let begin = Instant::now();
        let done = shell_as(ALICE, &format!("{settings}; {script}"));
        let passed = begin.elapsed();
        assert!(done.status.success(), "{what}: {}", shown(&done.stderr));
        // Far from the 45 s that the kernel lets a writer wait.
        assert!(passed < Duration::from_secs(2), "{what}: {passed:?}");
        wait(&format!("{what}: the change to be undone"), || {
            world.read("alice") == right && repaired() > before
        });
        assert_eq!(litter(&world.ssh("alice"), &["authorized_keys"]), [""; 0]);
    }
    let told = "any other change to this file is undone";
    assert!(right.to_lowercase().contains(told), "{right}");
    assert!(right.contains("`agent status` says where"), "{right}");
    assert!(agent.stop().0.success());
}
