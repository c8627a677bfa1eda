// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// settingsDoc begins docs/settings.md, which is made of the tables of this package.
const settingsDoc = `# Settings of the node agent

The tables of this page are made from the program's own: ` + "`go test ./ipam/ipamd/settings -update`" + ` writes the page.

Each setting is a flag, an environment variable, or a line ` + "`VARIABLE=value`" + ` of the file that -config (VPCNET_CONFIG) names. Lines that begin with
` + "`#`" + ` are comments, quotes belong to the value, and an empty value counts as not set. Flags override variables, variables override the file, and the
file overrides the defaults. A line that is overridden is logged.

## Changes while the agent runs

- On SIGHUP the agent reads the file again, and the file of VPCNET_POD_NETWORKS. If there is a mistake in a file, it logs one error with the line,
  and nothing changes.
- SIGHUP and PUT also make the agent check what the metadata service shows, which it otherwise does every 30 seconds. It adds a new prefix of the VPC
  at once, and drops one that no check has shown for 20 seconds.
- PUT sets settings until the agent ends; they override the flags, the variables and the file. The body has the format of the file, and replaces
  that of the PUT before; an empty body takes all back. Only root and the agent's own user can do that, on the agent's Unix socket; no TCP port has it:

      curl --unix-socket /run/vpcnet/agent.sock -X PUT --data-binary 'WARM_IP_TARGET=8' http://ipamd/v1/config

  The answer and the log name what is live, and what waits for a start of the agent:
  ` + "`" + `{"live":["WARM_IP_TARGET"],"waiting":{"VPCNET_LAYOUT":"drain"}}` + "`" + `.

| takes effect | when |
|---|---|
| live | at once. Pods and ENIs stay where they are: subnets are those of ENIs that are created from then on, and lower limits end no pod. Security groups also change on the ENIs that the agent has created. New subnets and groups must exist, in the zone and the VPC of the instance, or nothing changes |
| restart | when the agent starts. Pods stay. |
| drain | when the agent starts on a node without pods |

A change of AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG makes all settings of its group wait for it.
`

const missingDoc = `
## Settings of amazon-vpc-cni-k8s that the agent does not have

If one of them asks for something that the agent does not do, it logs a warning when it starts, or refuses to start where pods would be in the wrong
place or open. Values that are false or empty, and those listed here, pass.

| variable | passes | else | why |
|---|---|---|---|
`

// TestDocs checks docs/settings.md.
func TestDocs(t *testing.T) {
	const golden = "../../../docs/settings.md"
	var out strings.Builder
	out.WriteString(settingsDoc)
	cell := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	d := defaults()
	group := ""
	for _, o := range d.options() {
		if o.group != group {
			group = o.group
			fmt.Fprintf(&out, "\n## %s\n\n| flag | variable | default | takes effect | meaning |\n|---|---|---|---|---|\n", group)
		}
		text := ""
		if s := o.value.String(); s != "" {
			text = "`" + s + "`"
		}
		fmt.Fprintf(&out, "| `-%s` | `%s` | %s | %s | %s |\n", o.name, o.env, text, o.effect(), cell(o.help))
	}
	out.WriteString(missingDoc)
	for _, m := range missing {
		same, otherwise := "`"+strings.Join(m.same, "`, `")+"`", "warned"
		switch {
		case len(m.same) == 0:
			same = ""
		case m.same[0] == anyValue:
			same, otherwise = "every value", ""
		}
		if m.refused {
			otherwise = "refused"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", m.env, same, otherwise, cell(m.say))
	}
	out.WriteString(`
ENI_CONFIG_LABEL_DEF and ENI_CONFIG_ANNOTATION_DEF are refused with VPCNET_POD_NETWORKS unless VPCNET_POD_NETWORK names the network, because the agent
would take the network of the zone. NETWORK_POLICY_ENFORCING_MODE is refused if it is ` + "`strict`" + `, because new pods would be open.

Values that amazon-vpc-cni-k8s takes for its default without a word, such as an MTU of -1 or a log level that does not exist, are errors at the start,
with the values that are valid. Its log level ` + "`fatal`" + ` means ` + "`error`" + `, and -1 as a warm target or as MAX_ENI means not set.
`)
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("%s (-want +got), rewrite with -update:\n%s", golden, diff)
	}
}
