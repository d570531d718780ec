//! Completions: what the command line's own description makes, and the names of programs, which only the server knows.
//!
//! ```text
//!   handover restart <TAB> ─▶ handover ps, for a second at most, silent if nothing runs ─▶ its first column
//! ```

use clap_complete::Shell;

use crate::args::Arguments;

/// The whole script. For other shells than these three it knows no names.
pub(crate) fn script(shell: Shell) -> String {
    let mut made = Vec::new();
    clap_complete::generate(
        shell,
        &mut <Arguments as clap::CommandFactory>::command(),
        "handover",
        &mut made,
    );
    let made = String::from_utf8_lossy(&made).into_owned();
    match shell {
        Shell::Bash => made + BASH,
        Shell::Fish => made + FISH,
        Shell::Zsh => asking(&made),
        _ => made,
    }
}

/// Goes after what was made, and does what that does first.
const BASH: &str = r#"
# The names of programs, as the server that runs knows them.
_handover_programs() {
    local verb='' word control=() at
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        case $word in
            --control|-o|--output)
                [[ ${COMP_WORDS[at + 1]} == = ]] && ((at++))
                ((at++))
                [[ $word == --control ]] && control=(--control "${COMP_WORDS[at]}")
                ;;
            -*) ;;
            *) verb=${verb:-$word} ;;
        esac
    done
    case $verb in
        restart|reload|deploy|rollback|confirm|cancel|start|stop|logs|pause|resume)
            timeout 1 "${COMP_WORDS[0]}" "${control[@]}" ps 2>/dev/null | awk 'NR > 1 && !seen[$1]++ { print $1 }'
            ;;
    esac
}

_handover_with_programs() {
    _handover "$@"
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} names
    # An option, or what comes after one.
    [[ $word == [-=]* || $before == = || $before == -* && $before != -f ]] && return
    names=$(_handover_programs)
    [[ -n $names ]] && COMPREPLY=($(compgen -W "$names" -- "$word"))
}

complete -F _handover_with_programs -o bashdefault -o default handover
"#;

/// Goes after what was made.
const FISH: &str = r#"
# The names of programs, as the server that runs knows them.
function __fish_handover_programs
    set -l control (commandline -cp | string match -rg -- '--control[= ]+(\S+)')
    test -n "$control"; and set control --control $control
    timeout 1 handover $control ps 2>/dev/null | awk 'NR > 1 && !seen[$1]++ { print $1 }'
end

for verb in restart reload deploy rollback confirm cancel start stop logs pause resume
    complete -c handover -n "__fish_handover_using_subcommand $verb" -f -a "(__fish_handover_programs)"
end
"#;

/// What offers names where the script that was made offers files.
const ZSH: &str = r#"
# The names of programs, as the server that runs knows them.
_handover_programs() {
    # Not $words: those before the verb are gone from there.
    local -a control names typed=(${(z)LBUFFER})
    local at=${typed[(I)--control]} given=${typed[(r)--control=*]}
    (( at )) && control=(--control ${typed[at + 1]})
    [[ -n $given ]] && control=($given)
    names=(${(f)"$(timeout 1 handover $control ps 2>/dev/null | awk 'NR > 1 && !seen[$1]++ { print $1 }')"})
    compadd -a names
}

"#;

/// In zsh each argument says what completes it: those that may be a program say so, after [`ZSH`].
fn asking(made: &str) -> String {
    let names = |line: &str| {
        let is_argument =
            ["':name -- ", "'::name -- ", "'::to -- "].iter().any(|begin| line.starts_with(begin));
        let is_program = ["program", "paused"].iter().any(|word| line.to_lowercase().contains(word));
        is_argument && is_program && !line.to_lowercase().contains("endpoint")
    };
    let (head, body) = made.split_once('\n').unwrap_or((made, ""));
    let body = body.lines().map(|line| match line.strip_suffix(":_default' \\") {
        Some(argument) if names(line) => format!("{argument}:_handover_programs' \\\n"),
        _ => format!("{line}\n"),
    });
    // `#compdef` must stay first.
    format!("{head}\n{ZSH}{}", body.collect::<String>())
}
