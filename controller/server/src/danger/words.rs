//! What a shell would make of a command, well enough to see which programs it starts.
//!
//! Patterns look for programs where programs stand: `grep reboot` is no reboot, `sudo -u root sh -c 'true && reboot'` is.
//! Nobody is kept from anything by this: who wants to hide a program from it can.

use muster_proto::command::Program;

/// Shells within shells that are looked into.
const DEPTH_MAX: usize = 3;
/// Words as `sudo` before one program.
const PREFIXES_MAX: usize = 16;
/// Text that is looked through for one command: several times what a command and a script may have.
const BYTES_MAX: usize = 32 << 20;

/// Words that start the program behind them: which of their letters have a value, and how many words of their own follow.
const WRAPPERS: &[(&str, &str, usize)] = &[
    ("sudo", "ughpCTUrtDR", 0),
    ("doas", "uC", 0),
    ("env", "uCS", 0),
    ("nohup", "", 0),
    ("setsid", "", 0),
    ("exec", "a", 0),
    ("command", "", 0),
    ("builtin", "", 0),
    ("busybox", "", 0),
    ("time", "fo", 0),
    ("nice", "n", 0),
    ("ionice", "cnpPu", 0),
    ("chrt", "TPD", 1),
    ("taskset", "", 1),
    ("stdbuf", "ioe", 0),
    ("timeout", "ks", 1),
    ("xargs", "InPLsadE", 0),
    ("chroot", "", 1),
    ("unshare", "RwSG", 0),
    ("nsenter", "tSGW", 0),
    ("flock", "wE", 1),
    ("runuser", "ugG", 0),
    ("systemd-run", "puHM", 0),
    ("systemd-inhibit", "", 0),
    ("strace", "eopsu", 0),
    ("ssh", "bcDEeFIiJlmopRSWw", 1),
    ("su", "sgG", 1),
    ("watch", "n", 0),
    ("pkexec", "", 0),
    ("run0", "ugD", 0),
    ("setpriv", "", 0),
    ("prlimit", "", 0),
    ("chronic", "", 0),
    ("parallel", "jaIN", 0),
];
/// Options of all of them that have a value in the next word.
const VALUED: &str = "user group prompt chdir chroot host role type close-from command-timeout other-user unset adjustment \
                      class classdata signal kill-after input output error max-args max-procs max-chars arg-file \
                      delimiter reuid regid groups inh-caps ambient-caps bounding-set securebits pdeathsig target \
                      timeout interval property unit uid gid working-directory setenv machine jobs";
const KEYWORDS: [&str; 11] = ["if", "then", "else", "elif", "while", "until", "do", "!", "{", "}", "coproc"];
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "su"];

/// Each command that is found in a program, and each line of it, as one line with single blanks. `None` if there is too
/// much of it.
pub(super) fn texts(program: &Program, script: &[u8]) -> Option<Vec<String>> {
    let mut texts = Texts { found: Vec::new(), room: BYTES_MAX };
    match program {
        Program::Argv(words) => {
            let words: Vec<String> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            texts.command(&words, 0);
        }
        Program::Shell(line) => texts.shell(&String::from_utf8_lossy(line), 0),
        Program::Script { .. } => texts.shell(&String::from_utf8_lossy(script), 0),
    }
    (texts.room > 0).then_some(texts.found)
}

struct Texts {
    found: Vec<String>,
    room: usize,
}

impl Texts {
    fn add(&mut self, words: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut text = String::new();
        for word in
            words.into_iter().flat_map(|word| word.as_ref().split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        {
            if !text.is_empty() {
                text.push(' ');
            }
            text += &word;
        }
        self.room = self.room.saturating_sub(text.len() + 1);
        if self.room > 0 && !text.is_empty() {
            self.found.push(text);
        }
    }

    fn shell(&mut self, text: &str, depth: usize) {
        let text = text.replace("\\\n", " ");
        text.lines().for_each(|line| self.add([line]));
        if depth > DEPTH_MAX {
            return;
        }
        split(&text).iter().for_each(|words| self.command(words, depth));
        // An apostrophe that is none of the shell's hides no more than its line.
        if text.trim().contains('\n') && text.contains(['\'', '"']) {
            text.lines().flat_map(split).for_each(|words| self.command(&words, depth));
        }
    }

    /// The command as it stands, then without each word before its program.
    fn command(&mut self, mut words: &[String], depth: usize) {
        for _ in 0..PREFIXES_MAX {
            let Some(first) = words.first() else { return };
            let program = first.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(first);
            self.add(std::iter::once(program).chain(words[1..].iter().map(String::as_str)));
            self.inner(program, &words[1..], depth);
            let skipped = match program {
                ">" | "<" => 2.min(words.len()),
                _ if KEYWORDS.contains(&program) => 1,
                _ if is_assignment(first) => words.iter().take_while(|word| is_assignment(word)).count(),
                _ => match WRAPPERS.iter().find(|(name, ..)| *name == program) {
                    Some((_, valued, own)) => 1 + prefix(&words[1..], valued, *own),
                    None => return,
                },
            };
            words = words.get(skipped..).unwrap_or_default();
        }
    }

    /// What a program is given to run as a text, or as words of its own.
    fn inner(&mut self, program: &str, rest: &[String], depth: usize) {
        let line = match program {
            "eval" | "trap" | "watch" | "ssh" => Some(rest.join(" ")),
            _ if SHELLS.contains(&program) || program == "runuser" || program == "flock" => {
                let option = rest.iter().position(|word| {
                    word == "--command" || (word.starts_with('-') && !word.starts_with("--") && word.contains('c'))
                });
                option.and_then(|at| rest[at + 1..].iter().find(|word| !word.starts_with('-'))).cloned()
            }
            "find" => {
                let exec = rest.iter().position(|word| word.starts_with("-exec") || word.starts_with("-ok"));
                if let (Some(at), true) = (exec, depth < DEPTH_MAX) {
                    self.command(&rest[at + 1..], depth + 1);
                }
                None
            }
            _ => None,
        };
        if let Some(line) = line.filter(|_| depth < DEPTH_MAX) {
            self.shell(&line, depth + 1);
        }
    }
}

/// How many words belong to a wrapper: its options with their values, and so many more.
fn prefix(words: &[String], valued: &str, own: usize) -> usize {
    let mut at = 0;
    while let Some(option) = words.get(at).filter(|word| word.len() > 1 && word.starts_with('-')) {
        let takes_next = match option.strip_prefix("--") {
            Some(long) => VALUED.split(' ').any(|valued| valued == long),
            // A value follows its letter at once if anything does.
            None => option.find(|letter| valued.contains(letter)).is_some_and(|place| place + 1 == option.len()),
        };
        at += if takes_next { 2 } else { 1 };
        if option == "--" {
            break;
        }
    }
    at + own
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.starts_with(char::is_numeric)
    })
}

/// How text is read at a place.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Plain,
    Single,
    Double,
}

/// The commands of a shell's text, as words without their quotes.
fn split(text: &str) -> Vec<Vec<String>> {
    let mut splitter = Splitter::default();
    let (mut mode, mut around, mut chars) = (Mode::Plain, Vec::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        match (mode, c) {
            (Mode::Single, '\'') | (Mode::Double, '"') => mode = Mode::Plain,
            (Mode::Single, _) => splitter.letter(c),
            (_, '\\') => chars.next().into_iter().for_each(|c| splitter.letter(c)),
            (_, '$') if chars.next_if_eq(&'(').is_some() => {
                around.push((mode, ')'));
                splitter.end_command();
                mode = Mode::Plain;
            }
            (_, '`') => {
                splitter.end_command();
                mode = match around.pop_if(|(_, end)| *end == '`') {
                    Some((before, _)) => before,
                    None => {
                        around.push((mode, '`'));
                        Mode::Plain
                    }
                };
            }
            (Mode::Double, _) => splitter.letter(c),
            (Mode::Plain, '\'' | '"') => {
                splitter.word.get_or_insert_default();
                mode = if c == '"' { Mode::Double } else { Mode::Single };
            }
            (Mode::Plain, '(') => {
                around.push((mode, ')'));
                splitter.end_command();
            }
            (Mode::Plain, ')') => {
                splitter.end_command();
                mode = around.pop_if(|(_, end)| *end == ')').map_or(Mode::Plain, |(before, _)| before);
            }
            (Mode::Plain, ';' | '&' | '|' | '\n') => splitter.end_command(),
            (Mode::Plain, '#') if splitter.word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            (Mode::Plain, '>' | '<') => {
                // As in `2>`.
                splitter.word.take_if(|word| word.chars().all(|c| c.is_ascii_digit()));
                splitter.end_word();
                while chars.next_if(|next| [c, '&', '|'].contains(next)).is_some() {}
                splitter.letter(c);
                splitter.end_word();
            }
            (Mode::Plain, c) if c.is_whitespace() => splitter.end_word(),
            (Mode::Plain, c) => splitter.letter(c),
        }
    }
    splitter.end_command();
    splitter.commands
}

#[derive(Default)]
struct Splitter {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    word: Option<String>,
}

impl Splitter {
    fn letter(&mut self, letter: char) {
        self.word.get_or_insert_default().push(letter);
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.words.is_empty() {
            self.commands.push(std::mem::take(&mut self.words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_looked_through(text in any::<String>(), quoted in "[ '\"`$();|&\\\\a\n>-]{0,200}") {
            for text in [text, quoted] {
                let script = texts(&Program::Shell(text.clone().into_bytes()), b"").expect("short");
                prop_assert!(script.iter().all(|text| !text.contains("  ") && !text.contains('\n')));
            }
        }
    }

    #[test]
    fn programs_are_found_where_a_shell_would_start_them() {
        let line = |text: &str| texts(&Program::Shell(text.as_bytes().to_vec()), b"").expect("short");
        for (text, program) in [
            ("a; b  c", "b c"),
            ("A=1 B=2 /usr/bin/b c", "b c"),
            ("sudo -u root -- nice -n 5 b", "b"),
            ("echo \"x $(b \"c\") y\" 'z'", "b c"),
            ("x `b` \"`c d`\"", "c d"),
            ("timeout -k 1 5 sh -ec 'a && b c'", "b c"),
            ("if a; then { b; }; fi", "b"),
            ("find / -name x -exec b c", "b c"),
            ("a > /dev/null 2>&1; b", "b"),
            ("2>/dev/null b", "b"),
            ("a 2>c", "a > c"),
            ("sudo -nu root b -c", "b -c"),
            ("sudo -uroot --user=root --prompt : -- b", "b"),
            ("a # don't\nb", "b"),
            ("it's\nb c", "b c"),
            ("a \\\n  b", "a b"),
        ] {
            let found = line(text);
            assert!(found.iter().any(|found| found == program), "{text}: {found:?}");
        }
        let quoted = line("grep -E 'a|b' c \"; b\" # b");
        assert!(quoted.iter().all(|text| text.starts_with("grep")), "{quoted:?}");
    }

    #[test]
    fn what_is_too_much_is_not_taken_for_harmless() {
        let nested = format!("{}x", "sudo ".repeat(200_000));
        assert!(texts(&Program::Shell(nested.into_bytes()), b"").is_some_and(|texts| texts.len() < 100));
        let hidden = format!("{}reboot", "sh -c ".repeat(100));
        assert!(texts(&Program::Shell(hidden.into_bytes()), b"").is_some());
    }
}
