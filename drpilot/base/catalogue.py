"""The rows of the error catalogue, as data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATALOGUE", "EXIT_CODES", "Row"]

EXIT_CODES: dict[int, str] = {
    0: "done, also when it already was so, also when a run awaits its commit",
    1: "failed",
    2: "wrong usage of the command line",
    3: "findings: a check or a linter has something to say",
    4: "incomplete: paused, waiting for a person, or the outcome is unknown; the message names the run",
    5: "refused by a guard, or consent is missing",
    6: "a configuration file is wrong",
    7: "credentials or permissions",
    8: "a cloud or the network can't be reached",
    9: "not found",
    10: "timed out",
    70: "a bug in drpilot",
    130: "interrupted",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One error: `title` and `hint` are templates over facts, `cause` is the long text of `explain`."""

    code: str
    word: str
    exit_code: int
    title: str
    cause: str
    hint: str


_ROWS: tuple[Row, ...] = (
    # 10xx usage
    Row("DRP-1001", "usage", 2, "{what}", "The command line can't be understood as it stands.", "{hint}"),
    # 20xx configuration files
    Row("DRP-2001", "document", 6, "{file}: {count} things to mend", "A YAML file is not valid; each finding names file:line:column.", "mend the lines named above, then run the command again"),
    Row("DRP-2002", "yaml-syntax", 6, "{what}", "The text is not YAML in the strict form drpilot reads: one document, no duplicate keys, no anchors, true/false only.", "see docs/reference/files.md"),
    Row("DRP-2003", "unknown-key", 6, "unknown key {key!r}", "drpilot refuses keys it does not know, because a misspelt key would silently do nothing in a disaster.", "known here: {known}"),
    Row("DRP-2004", "missing-key", 6, "key {key!r} is missing", "A key that has no default was left out.", "add it; see docs/reference/files.md"),
    Row("DRP-2005", "wrong-value", 6, "{what}", "A value has the wrong type or lies outside what is allowed.", "{hint}"),
    Row("DRP-2006", "no-configuration", 6, "there is no drpilot.yaml in {home}", "No site was added yet, or DRPILOT_HOME points elsewhere.", "drpilot site add NAME --profile PROFILE --region REGION, or use --lab"),
    Row("DRP-2007", "unknown-site", 6, "site {site!r} is not in drpilot.yaml", "A group file or a command names a site that was never added.", "drpilot site list; drpilot site add {site} …"),
    Row("DRP-2008", "mapping-not-one-to-one", 6, "map.{kind}: {what}", "The mapping is read from right to left on the way back, so two left sides can't share a right side.", "give each side its own partner"),
    Row("DRP-2009", "unmapped", 6, "{what} has no partner on {site}", "Each member needs a zone, subnet, type, key pair and security groups on the other site.", "add it under map.{kind} in the group file"),
    Row("DRP-2010", "runbook", 6, "{what}", "A runbook can't be compiled for this group.", "{hint}"),
    Row("DRP-2011", "no-members", 6, "tier {tier!r} selects nothing on {site}", "A tier's selector found no instance, scaling group or load balancer.", "check the tag or the name; what runs there: drpilot group new NAME --from {site} --to SITE"),
    Row("DRP-2012", "site-exists", 6, "site {site!r} is in drpilot.yaml with other settings", "A site's settings are not replaced silently: a group may depend on them.", "edit its line under `sites` by hand, or choose another name"),
    Row("DRP-2013", "site-not-written", 6, "drpilot.yaml is laid out so that site {site!r} can't be added to it", "The file was left as it is, because the new text would not have meant the same.", "add under `sites`:  {line}"),
    # 21xx findings of check and protect
    Row("DRP-2101", "unprotected-resource", 3, "{what} belongs to no tier", "A running resource carries the group's tags but no tier protects it.", "add a tier for it, or take the tag away"),
    Row("DRP-2102", "carried-with-loss", 3, "{what}", "A property of a machine can't be carried to the other site as it is.", "{hint}"),
    Row("DRP-2103", "key-unusable", 3, "KMS key {key} on {site} can't be used: {state}", "Encrypted snapshots are copied under a key of the target; a missing or disabled key would stop the copy.", "enable the key on {site} or map another under map.kms_keys"),
    Row("DRP-2104", "never-drilled", 3, "never drilled: RTO unknown", "Only a drill measures how long a failover takes.", "drpilot drill {group}"),
    Row("DRP-2105", "rpo-missed", 3, "the newest point is {age} old, the objective is {rpo}", "Replication is late.", "drpilot replicate {group}"),
    Row("DRP-2106", "standby-missing", 3, "standby of tier {tier} is {state}", "The minimal standby is not ready on the other site.", "drpilot replicate {group}"),
    Row("DRP-2107", "site-silent", 3, "{site} does not answer: {reason}", "A live look at the site failed.", "drpilot site check {site}"),
    Row("DRP-2108", "orphan", 3, "{kind} {id} on {site} carries our tags but nothing owns it", "A resource was left behind; nothing in the journal accounts for it.", "look at it; when it is of no use: delete it by hand"),
    Row("DRP-2109", "quota-short", 3, "quota {quota} on {site}: {have} of {limit} used, {need} needed", "The failover would need more than the account may have.", "ask the cloud for a higher quota on {site}"),
    Row("DRP-2110", "drift", 3, "{what}", "What runs differs from what is protected.", "drpilot replicate {group}"),
    Row("DRP-2111", "journal-at-home", 3, "the journal would be lost with the active side, or nobody said where it lies", "With SQLite the journal can't be reached from another machine; keep the controller at the secondary site or at a third place, and name it in drpilot.yaml.", "run drpilot there, and name the site under `controller` in drpilot.yaml"),
    Row("DRP-2112", "witness-wrong", 3, "{what}", "The witness and the journal differ on who is active.", "drpilot status {group}; settle it before any move"),
    Row("DRP-2113", "clock-skew", 3, "clock of this host and of {site} differ by {skew}", "Signatures are refused beyond 15 minutes of difference, and loss estimates are off.", "set the clock (NTP)"),
    Row("DRP-2114", "permission-missing", 3, "{action} is not allowed on {site}", "A DryRun of the action was refused.", "allow it in the policy of the role drpilot uses"),
    Row("DRP-2119", "freeze-missing", 3, "{program} can't be started on this host", "A tier's freeze and thaw run where the run is driven; without them its points are crash-consistent.", "install it where drpilot serve runs, or take `freeze` out of the group file"),
    Row("DRP-2120", "split-suspected", 3, "{what}", "What was seen contradicts what the journal holds about who is active: two sides may be writable. Two such looks suspect a split, and nothing begins by itself in it; two people name the side to go on with.", "drpilot fence {group} --survivor SITE --reason \"…\""),
    Row("DRP-2115", "certificates-unchecked", 3, "{site} may show any certificate", "The site's certificate is not checked (`verify: false`, or verify-ssl = false in an ini file of euca2ools, which is its default).", "give sites.{site}.ca_bundle the cloud's certificate"),
    Row("DRP-2121", "partner-missing", 3, "{kind} {name} is not on {site}", "The group file names something that the other site does not have; a failover would stop there.", "make it on {site}, or name another in the group file"),
    Row("DRP-2122", "partner-differs", 3, "{kind} {name} {what}", "What the group file names is there, but is not what it has to be: in another zone, another key, another name.", "mend the group file, or what it names"),
    Row("DRP-2123", "partner-untold", 3, "{site} does not tell whether it has the {kind} {name}: {what}", "The site refuses the question (permission, or no such service), so nobody knows before the night.", "allow drpilot to read it on {site}"),
    Row("DRP-2124", "burst-unhealthy", 3, "burst of {tier} on {site}: {what}", "Users are sent to extra machines that are not there or not healthy.", "drpilot burst {group} --end"),
    # 30xx credentials
    Row("DRP-3001", "credentials", 7, "{site} refuses the credentials", "The key is unknown, the secret is wrong or expired.", "check the profile or the reference in drpilot.yaml, then: drpilot site check {site}"),
    Row("DRP-3002", "no-credentials", 7, "no credentials for {site}: {what}", "The profile, variable, file or command that drpilot.yaml names gives none. AWS_* variables are not used for a named site.", "mend the reference under sites.{site}"),
    Row("DRP-3003", "wrong-account", 7, "{site} answers as account {found}, drpilot.yaml says {wanted}", "The account of a site is pinned, so that a wrong profile can't fail over the wrong world.", "use the right profile, or change sites.{site}.account after thinking"),
    Row("DRP-3004", "denied", 7, "{site} denies {action}", "The identity lacks a permission.", "allow {action} on {site}, then resume"),
    Row("DRP-3005", "login-refused", 7, "{site} refuses the login {who}", "The account, the user or the password is wrong; the cloud does not say which.", "try again: drpilot site login {site}"),
    Row("DRP-3006", "password-expired", 7, "the password of {who} on {site} has expired", "The cloud gives no token for an expired password.", "change it in the cloud's console, then: drpilot site login {site}"),
    Row("DRP-3007", "login-ended", 7, "the login to {site} gives no keys: {what}", "A login by password gives temporary keys; the password itself is not kept.", "drpilot site login {site}"),
    Row("DRP-3008", "euca-ini", 7, "euca2ools: {what}", "The ini files of euca2ools (EUCA_CONFIG_PATH, else /etc/euca2ools and ~/.euca) don't lead to an endpoint and a key.", "{hint}"),
    # 31xx reachability
    Row("DRP-3101", "unreachable", 8, "{site} can't be reached at {endpoint}", "The endpoint refuses, hangs or can't be resolved.", "drpilot site check {site}; if the site is lost: drpilot failover GROUP --reason \"…\""),
    Row("DRP-3102", "witness-unreachable", 8, "the witness can't be reached", "Without the witness nobody can be sure which side is active.", "mend the witness, or override with --break-glass \"why\""),
    # 40xx refusals
    Row("DRP-4001", "lane-busy", 5, "{run} holds lane {lane} of {group} since {since}, begun by {by}", "One live run a group and lane: two moves at once could make both sides active.", "drpilot run show {run}; to go on with it: drpilot run resume {run}"),
    Row("DRP-4002", "consent-missing", 5, "{verb} {group} needs consent", "A move is consented to by typed facts, never by a yes.", "{hint}"),
    Row("DRP-4003", "loss-not-accepted", 5, "{verb} {group} loses up to {loss}, accepted were {accepted}", "The accepted loss is lower than what the proposal foretells.", "--accept-data-loss {loss}, or choose another point"),
    Row("DRP-4004", "locked", 5, "{group} is locked by {by}: {reason}", "A person stopped all moves of this group.", "drpilot group unlock {group}"),
    Row("DRP-4005", "cooldown", 5, "{group} moved {age} ago; the next move is free in {left}", "A pause after each move keeps two sides from flapping.", "drpilot group acknowledge {group} --reason \"…\""),
    Row("DRP-4006", "wrong-state", 5, "{group} is {state}: {verb} is not possible", "The lifecycle of the group allows this verb only from {allowed}.", "{hint}"),
    Row("DRP-4007", "no-point", 5, "{group} has no usable recovery point", "Nothing complete was replicated yet, or all points are quarantined.", "drpilot replicate {group}; drpilot point list {group}"),
    Row("DRP-4009", "same-person", 5, "{person} already approved {run}", "A second approval needs a second person.", "ask one of: {others}"),
    Row("DRP-4010", "not-allowed", 5, "{person} may not {what}", "drpilot.yaml gives this operator no such right.", "ask one of: {others}"),
    Row("DRP-4011", "rollback-refused", 5, "{group} can't be rolled back: {what}", "Rolling back is only safe while the old side is intact and fenced.", "{hint}"),
    Row("DRP-4013", "transition-refused", 5, "{family} {key}: {event} is not allowed from {state}", "The lifecycle table has no such transition, or its guard does not hold.", "drpilot explain {state}"),
    Row("DRP-3010", "site-refuses", 7, "{site} answers but does not let us in", "The site may be alive and writing; what fails are the credentials, the account or the permissions drpilot uses.", "drpilot site check {site}"),
    Row("DRP-4014", "switchover-needs-both", 5, "{site} does not answer: a switchover needs both sites", "A planned move copies the last writes, so the source must be alive.", "if {site} is lost: drpilot failover {group} --reason \"…\""),
    Row("DRP-4015", "fence-open", 5, "{site} is not fenced: {what}", "The old side may still write.", "drpilot fence {group}"),
    Row("DRP-4016", "nothing-to-answer", 5, "{run} has no open question", "No gate of this run waits for a person.", "drpilot run show {run}"),
    Row("DRP-4017", "skip-refused", 5, "step {step} can't be skipped", "Fence, promotion and epoch steps protect the data; they are never skipped.", "retry it: drpilot run retry {run} {step}"),
    Row("DRP-4020", "drill-not-fresh", 5, "{group} is not fresh enough for a drill: {what}", "A drill of a stale point says nothing about tonight.", "drpilot replicate {group}"),
    Row("DRP-4021", "reason-missing", 5, "{verb} {group} needs a reason", "The reason is part of the evidence.", "--reason \"what happened, ticket\""),
    Row("DRP-4022", "halted", 5, "everything is halted by {by} since {since}: {reason}", "A person stopped all runs of this installation: none begins, none is driven, and no call of one that changes a cloud leaves.", "drpilot unhalt --reason \"…\""),
    Row("DRP-4030", "survivor-unseen", 5, "{site} does not answer: no survivor of {group} can be named", "The side that is given up must be seen fenced, and the survivor must be seen running, before the group goes on with one of them.", "drpilot site check {site}"),
    Row("DRP-4041", "no-burst", 5, "{group} has no `burst` in its file", "What a burst may start, and for how long, is said in the group file beforehand.", "add `burst:` to the group file (docs/howto/burst.md), then: drpilot protect FILE"),
    Row("DRP-4042", "burst-running", 5, "{group} has a burst on {site}, {state} since {since}: {verb} is not possible", "One burst a group; and a planned move or a farewell begins without one.", "drpilot burst {group} --end"),
    Row("DRP-4043", "burst-idle", 5, "{group} has no burst", "There is nothing to end.", "drpilot status {group}"),
    Row("DRP-4044", "burst-refused", 5, "{group} can't burst: {what}", "A burst never takes the room that a failover needs, and one that begins by itself waits for its cool-down.", "{hint}"),
    Row("DRP-4045", "not-migrated", 5, "{group} has no migration to finish: {what}", "Only a committed migration is finished: then nothing stands by any more, and what drpilot made on the old side goes.", "drpilot status {group}; to let the group go: drpilot group retire {group}"),
    Row("DRP-4046", "rounds-too-long", 5, "the last of {rounds} replications took {took}, {limit} were allowed", "While the last copy is made nobody can write, for about as long as a replication takes.", "--until with a longer time, --rounds with more of them, or a quieter hour"),
    Row("DRP-4047", "surroundings-lacking", 5, "{count} things that {group} needs are not on {site} and can't be made there", "Networks, types, profiles and KMS keys are mapped, never made; a key pair or security group is made only where it means the same there.", "make them on {site}, or name others in the group file, then: drpilot protect FILE"),
    # 50xx runs
    Row("DRP-5001", "run-failed", 1, "{run} failed at step {step}", "A step failed and its policy is to stop the run.", "drpilot run show {run}"),
    Row("DRP-5002", "run-paused", 4, "{run} is paused at step {step}: {what}", "In a disaster a person decides what to do about a failed step.", "drpilot run retry {group}  (or: run skip, rollback {group}, run cancel)"),
    Row("DRP-5003", "run-waiting", 4, "{run} waits for {what}", "A gate waits for a person.", "{hint}"),
    Row("DRP-5004", "run-unknown", 4, "{run}: the outcome of step {step} can't be told by looking", "Observation could not settle whether a call happened; doing it again blindly could do it twice.", "drpilot run settle {group} --step {step} --happened yes|no --reason \"what you saw\""),
    Row("DRP-5005", "run-cancelled", 1, "{run} was cancelled", "A person or a failover cancelled the run.", "drpilot run show {run}"),
    Row("DRP-5006", "clean-failed", 3, "{run} left {count} things behind", "The clean-up could not remove everything it made.", "drpilot run retry {group}; the list: drpilot report show {run}"),
    Row("DRP-5007", "nobody-drives", 4, "{run} is not finished and nobody drives it", "The process that drove it is gone.", "drpilot run resume {group}"),
    Row("DRP-5008", "superseded", 4, "{run} was taken over by {by}", "Another controller holds the lease; this one stopped writing at once.", "drpilot run watch {run}"),
    Row("DRP-5009", "interrupted", 130, "interrupted; {run} stays as it is", "Ctrl-C leaves the run; nothing is rolled back by a signal.", "drpilot run resume {run}"),
    Row("DRP-5011", "drill-failed", 1, "drill {run} failed: {what}", "A drill that goes red is a drill that worked: the failover would have failed too.", "drpilot report show {run}"),
    # 60xx journal
    Row("DRP-6001", "journal-unwritable", 1, "the journal {path} can't be written: {what}", "The disk is full or read-only. What was committed is safe; nothing was begun that the journal does not know.", "make room, then: drpilot run resume GROUP"),
    Row("DRP-6002", "journal-newer", 6, "the journal {path} was written by a newer drpilot (schema {found}, this one knows {known})", "An older program must not write a newer journal.", "use the newer drpilot"),
    Row("DRP-6003", "journal-unreadable", 6, "the journal {path} can't be opened: {what}", "The file is no journal, or its place can't be reached.", "check `journal` in drpilot.yaml and DRPILOT_DATABASE_URL (in the lab DRPILOT_LAB_DATABASE_URL)"),
    Row("DRP-6004", "journal-busy", 4, "the journal {path} is busy", "Another process held the write lock for too long.", "try again; drpilot run list"),
    Row("DRP-6005", "chain-broken", 1, "the event chain of {run} is broken at event {sequence}", "An event was changed or removed after it was written.", "treat this journal as tampered with"),
    Row("DRP-6006", "journal-unreachable", 8, "the journal {path} does not answer: {what}", "Its server is down, can't be reached, or refuses the login. A run under way waits two minutes for it to come back; what was committed is safe, and a call whose outcome could not be written is looked at, not repeated.", "bring the server back, then: drpilot run resume GROUP; or check `journal` in drpilot.yaml and DRPILOT_DATABASE_URL (in the lab DRPILOT_LAB_DATABASE_URL)"),
    Row("DRP-6007", "journal-driver", 6, "the journal {path} needs a driver for PostgreSQL", "The driver is an extra, so that a journal in a file needs none.", "pip install 'drpilot[postgres]'"),
    Row("DRP-6008", "journal-in-use", 5, "the journal {path} is older than this drpilot, and {by} works with it", "Its tables must change first, which must not happen under a program that drives a run or serves.", "end that one in good order (a service: systemctl stop drpilot), then try again"),
    # 65xx not found
    Row("DRP-6501", "unknown-group", 9, "group {group!r} is not known", "No such group was protected on this journal.", "drpilot group list"),
    Row("DRP-6502", "unknown-run", 9, "run {run!r} is not known", "A run is named GROUP/NUMBER, or by its group for the newest.", "drpilot run list"),
    Row("DRP-6503", "unknown-point", 9, "point {point!r} is not known in {group}", "A point is named by its id or a unique beginning of it.", "drpilot point list {group}"),
    Row("DRP-6504", "unknown-step", 9, "step {step!r} is not in {run}", "A step is named by its path, such as tiers/db/volumes.", "drpilot run show {run}"),
    Row("DRP-6505", "unknown-word", 9, "{word!r} is no error, state or word of drpilot", "explain knows error codes, their words, states and the field's terms.", "drpilot explain --list"),
    Row("DRP-6506", "unknown-file", 9, "there is no file {file}", "The path names nothing.", "check the path"),
    # 66xx bundles, and what others wrote
    Row("DRP-6601", "manifest-malformed", 1, "{file} is not a manifest drpilot can read: {what}", "A manifest is XML of a fixed form; one that is damaged, of another version or changed on purpose is not guessed at.", "fetch it again from where the bundle was made; drpilot bundle show FILE"),
    Row("DRP-6602", "key-unreadable", 7, "{file} is no usable {kind}", "Keys and certificates of bundles are RSA, in PEM or DER, without a passphrase.", "openssl pkey -in FILE -noout shows what a key file holds; for a certificate: openssl x509 -in FILE -noout -text"),
    Row("DRP-6603", "wrong-key", 7, "{key} does not open {name}", "The AES key of a bundle is encrypted for its owner and for one cloud; this private key is neither's.", "use the private key of account {user} that was current when the bundle was made"),
    Row("DRP-6604", "signature-wrong", 1, "{file} was not signed like this by the holder of {key}", "The signature covers the manifest byte for byte: it was changed, or somebody else signed it.", "fetch it again; if another certificate signed it: --signer CERT"),
    Row("DRP-6605", "part-missing", 9, "part {part} of {name} is not in {place}", "A bundle is its manifest and every part the manifest names.", "fetch the bundle again: drpilot bundle download"),
    Row("DRP-6606", "part-damaged", 1, "part {part} of {name} is damaged: {what}", "The manifest has the SHA-1 of each part; what was read has another.", "fetch the part again: drpilot bundle download"),
    Row("DRP-6607", "image-damaged", 1, "{name} does not unpack to its image: {what}", "All parts are as the manifest says, but what they hold is not the image it describes.", "bundle the image again: drpilot bundle create"),
    Row("DRP-6608", "image-overflow", 1, "{name} unpacks to more than the {size_bytes} bytes its manifest announces", "Unpacking stopped there, so that a small bundle can't fill a disk.", "do not trust this bundle; drpilot bundle show FILE"),
    Row("DRP-6609", "unsafe-name", 5, "{file} names a file {name!r}", "A name in a manifest is a plain file name: a path could lead anywhere on this machine.", "do not trust this bundle"),
    Row("DRP-6610", "output-exists", 5, "{path} is there already", "Names come from a manifest, so nothing is ever replaced.", "move it away, or give another folder"),
    Row("DRP-6611", "file-unwritable", 1, "{path} can't be written: {what}", "The disk is full, read-only, or the folder belongs to somebody else. Nothing half-written was left behind.", "make room or give another folder, then run it again"),
    Row("DRP-6612", "file-unreadable", 1, "{path} can't be read: {what}", "A file that was named exists but can't be read to its end.", "check its owner and permissions, and that nobody is writing to it"),
    Row("DRP-6613", "bucket-missing", 9, "{site} has no bucket {bucket}", "Bundles are put into a bucket that is there, so that a misspelt name makes none.", "--create-bucket makes it"),
    Row("DRP-6614", "object-missing", 9, "{site} has no object {key} in bucket {bucket}", "The manifest is named by its bucket and key.", "drpilot bundle show FILE lists the names of a bundle's parts"),
    Row("DRP-6615", "bundle-exists", 5, "{bucket}/{key} on {site} is another bundle", "An image may be registered from it, so it is not replaced.", "choose another prefix, or delete it: drpilot bundle delete {bucket}/{key} --site {site}"),
    Row("DRP-6616", "acl-refused", 5, "bucket {bucket} on {site} takes no ACL", "A cloud reads a bundle by the ACL {acl}; this bucket has ACLs disabled (object ownership: bucket owner enforced).", "set the bucket's object ownership to `ObjectWriter`, or use a bucket made by --create-bucket"),
    Row("DRP-6617", "bundle-unsound", 3, "{what}", "`bundle verify` read the whole bundle and found this.", "fetch the bundle again, or bundle the image again"),
    Row("DRP-6618", "bundle-sealed", 5, "{key} does not open the bundle of {image}, so it can't leave {site}", "A bundle is opened by the private key of who made it. One that the cloud made of a running instance (BundleInstance) is sealed for the cloud alone: its owner can't open it, and only that cloud can run it.", "with the key account {user} bundled it with: --private-key FILE; if the cloud made it: start an instance of it and bundle that one itself (drpilot bundle create --device), or bundle the image anew"),
    Row("DRP-6619", "program-missing", 1, "there is no program {program} on this machine", "The file system of an image of a running machine is made by the tools of its own kind.", "install {package}"),
    # 67xx blocks
    Row("DRP-6701", "block-map", 6, "{file} is no block map drpilot can use: {what}", "A block map is sealed by a digest over all of it; one that was cut off or changed is never taken for a base.", "leave out --base and copy everything; that writes a new map"),
    Row("DRP-6702", "base-mismatch", 5, "{target} does not hold what the base says: {what}", "An incremental copy onto something else than the base would leave a mixture of two states.", "leave out the base: everything is copied, and what is old is cleared"),
    Row("DRP-6703", "block-corrupt", 1, "{name}: block {index} is not what its checksum says", "The block was read three times, and its bytes never had the SHA-256 that was stated with it. Nothing of it was written.", "the source is damaged there; copy another snapshot or point"),
    Row("DRP-6704", "copy-unfinished", 5, "{target} is half of another copy, from {source}", "A copy in place was interrupted, so the target is a mixture of two states; only the same copy can go on, or a full one.", "repeat the command of that copy, or copy everything: --restart, without a base"),
    Row("DRP-6705", "copy-busy", 5, "another process is at this copy ({what})", "One process holds the ledger of a copy.", "wait for it"),
    Row("DRP-6706", "target-too-small", 5, "{target} has {have_bytes} bytes, the source {need_bytes}", "A volume must be at least as large as what is copied onto it.", "use a larger volume"),
    Row("DRP-6707", "device-unusable", 1, "{path} can't be used: {what}", "The device or file is missing, mounted, full, read-only or belongs to somebody else.", "check it: lsblk, ls -l; nothing that is mounted is written to"),
    Row("DRP-6708", "unknown-snapshot", 9, "there is no snapshot {snapshot} on {site}", "The id names no snapshot this account may see there.", "check the id and the site: drpilot site list"),
    Row("DRP-6709", "snapshot-not-ready", 1, "{snapshot} on {site} is {state}", "Only a completed snapshot can be read by blocks; one that was not completed in time fails.", "look at it on {site}; a pending one takes a while"),
    Row("DRP-6710", "no-parts", 9, "there is no copy at {place}", "A place in a bucket holds a copy when it has a blocks.map.", "check bucket and prefix"),
    Row("DRP-6711", "stream-cut", 1, "{name} has {have} bytes, announced were {need}", "A stream that is shorter or longer than announced is not the image it should be.", "check where the stream comes from"),
    Row("DRP-6712", "mover-job", 6, "{file} is no {kind} of a mover: {what}", "A mover's job names devices and holds a URL for each object it may write; one that was cut off, changed, is of another version or expired is not guessed at.", "let the controller write a new one: drpilot run retry"),
    Row("DRP-6713", "mover-device", 9, "the device {device} of the job is not found on this machine: {what}", "A guest may call a volume by another name than the cloud. It is found by its name or by its size, and never guessed: the bytes of another volume would be taken for its snapshot.", "name it: drpilot mover JOB --device {device}=PATH; lsblk -b lists what there is"),
    Row("DRP-6714", "mover-unfinished", 4, "{failed} of {count} volumes were not staged: {what}", "What was written stays; a volume counts as staged when its map is written, last.", "the same command goes on where this one stopped"),
    # 675x images by hand
    Row("DRP-6751", "unknown-image", 9, "{site} has no image {image} of this account", "An image is brought over from the account that owns it; what belongs to others is copied within its own cloud first.", "check the id and the site: drpilot site list"),
    Row("DRP-6752", "image-unusable", 5, "{image} on {site} can't be brought over: {what}", "Only an available image of a machine that boots from a whole disk runs on another kind of cloud.", "choose another image"),
    Row("DRP-6753", "image-by-hand", 4, "nothing automatic brings {image} from {source} to {target}: {what}", "The two clouds have no call in common that moves the bytes, so a person does; the steps are in the hint.", "docs/howto/images.md"),
    Row("DRP-6754", "image-not-carried", 1, "{image} was not brought to {site}: {what}", "A step failed for certain. What was carried is kept on the clouds and found again.", "the same command goes on where it stopped"),
    # 68xx buckets
    Row("DRP-6801", "sync-record", 1, "the record of a sync can't be used: {path}: {what}", "It holds which objects are equal under which ETags, so that a sync needs no look at each of them.", "check the disk; the record may be deleted: what ETags don't prove equal is copied once more"),
    Row("DRP-6802", "source-empty", 5, "{source} holds nothing, so nothing of {target} was deleted", "An empty source is far more often a misspelt prefix, or a bucket that was lost, than a bucket that was emptied on purpose.", "check the source; what shall really go can be deleted on the target"),
    # 70xx lab
    Row("DRP-7001", "lab-down", 8, "the lab is not running", "--lab commands talk to simulated clouds on this machine.", "drpilot lab up"),
    Row("DRP-7002", "lab-fault", 2, "{what}", "A fault is written KIND[:service.action][@n].", "kinds: {kinds}"),
    Row("DRP-7003", "lab-failed", 1, "the lab process of {site} did not start: {what}", "A simulated cloud ended or did not answer in time.", "drpilot lab down; the log: {log}"),
    Row("DRP-7004", "lab-site", 9, "the lab has no site {site!r}", "A lab has the sites home, away and edge.", "drpilot lab status"),
    Row("DRP-7005", "lab-guest", 1, "the guest at {address} was not {done}: {what}", "A database guest of the lab stops its heartbeats for a while when it is asked to, as a team's own program would freeze a database. `thaw` succeeds only where the freeze has held until then.", "drpilot lab status; the guest listens while its instance runs and the lab is up"),
    # 80xx cloud failures inside steps
    Row("DRP-8001", "cloud-failure", 1, "{site}: {operation} failed: {code}", "The cloud answered a call with an error.", "drpilot run show; then retry"),
    Row("DRP-8002", "cloud-unknown", 4, "{site}: the answer to {operation} was lost", "The call may or may not have happened.", "drpilot run resume looks before it repeats"),
    # 90xx
    Row("DRP-9001", "bug", 70, "internal error: {what}", "A condition that must always hold did not. Nothing further was written.", "please report it; what drpilot knew is in {report}"),
)  # fmt: skip


def _by_word(rows: tuple[Row, ...]) -> dict[str, Row]:
    table = {row.word: row for row in rows}
    codes = {row.code for row in rows}
    if len(table) != len(rows) or len(codes) != len(rows):
        raise AssertionError("error words and codes must be unique")
    return table


CATALOGUE: dict[str, Row] = _by_word(_ROWS)
