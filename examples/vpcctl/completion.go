// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
)

const completionAbout = `completion prints a script with which a shell completes commands and flags. It reads the
flags of a command from its help.

  source <(vpcctl completion bash)
  source <(vpcctl completion zsh)
  vpcctl completion fish | source`

// completions are the scripts by shell. Two %s stand for the commands, and for the commands
// that have others as lines of a case.
var completions = map[string]string{
	"bash": `_vpcctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} words
  if [ "$COMP_CWORD" = 1 ]; then
    words="%[1]s"
  elif [[ $cur == -* ]]; then
    words=$(vpcctl "${COMP_WORDS[1]}" -h 2>/dev/null | sed -n 's/^  \(-[a-z0-9-]*\).*/\1/p')
    [ -n "$words" ] || words=$(vpcctl "${COMP_WORDS[1]}" "${COMP_WORDS[2]}" -h 2>/dev/null | sed -n 's/^  \(-[a-z0-9-]*\).*/\1/p')
  elif [ "$COMP_CWORD" = 2 ]; then
    case ${COMP_WORDS[1]} in
%[2]s    esac
  fi
  if [ -n "$words" ]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}
complete -F _vpcctl vpcctl
`,
	"zsh": `autoload -U +X bashcompinit && bashcompinit
`,
	"fish": `complete -c vpcctl -n __fish_use_subcommand -f -a "%[1]s"
%[2]scomplete -c vpcctl -n 'not __fish_use_subcommand' -a '(vpcctl (commandline -opc)[2..] -h 2>/dev/null | string match -r "^  (-[a-z0-9-]+)" -g)'
`,
}

// groups are the commands that have others, with these.
func groups() map[string][]command {
	return map[string][]command{
		"pool": poolCommands, "state": stateCommands,
		"explain": {{name: "pod"}, {name: "eni"}, {name: "failure"}}, "completion": {{name: "bash"}, {name: "zsh"}, {name: "fish"}},
	}
}

// runCompletion runs "vpcctl completion".
func runCompletion(_ context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("completion", flag.ContinueOnError)
	pos, err := parseMixed(fs, std, args, completionAbout, "bash|zsh|fish")
	if err != nil {
		return err
	}
	if len(pos) != 1 || completions[pos[0]] == "" {
		return wrong(fs, std, "want bash, zsh or fish")
	}
	shell, line := pos[0], "      %s) words=\"%s\" ;;\n"
	if shell == "fish" {
		line = "complete -c vpcctl -n '__fish_seen_subcommand_from %s' -f -a \"%s\"\n"
	}
	names := func(list []command) string {
		var all []string
		for _, c := range list {
			all = append(all, c.name)
		}
		return strings.Join(all, " ")
	}
	var lines []string
	for name, list := range groups() {
		lines = append(lines, fmt.Sprintf(line, name, names(list)))
	}
	slices.Sort(lines)
	if shell == "zsh" { // zsh runs the script for bash
		fmt.Fprint(std.out, completions[shell])
		shell = "bash"
	}
	_, err = fmt.Fprintf(std.out, completions[shell], names(commands()), strings.Join(lines, ""))
	return err
}
