// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"fmt"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// Plan is what a change-over does, in order, and what it leaves alone.
type Plan struct {
	// Notes name what the sources do not agree on. Nothing of it changes.
	Notes []string
	Steps []Step
}

// String returns the notes as comments, and the commands of the steps.
func (p Plan) String() string {
	var b strings.Builder
	for _, n := range p.Notes {
		b.WriteString("# left alone: " + n + "\n")
	}
	if len(p.Steps) == 0 {
		b.WriteString("# nothing to do\n")
	}
	title := ""
	for _, s := range p.Steps {
		if s.title() != title {
			title = s.title()
			fmt.Fprintf(&b, "\n# %s\n", title)
		}
		b.WriteString(strings.TrimSuffix(s.String(), "\n") + "\n")
	}
	return b.String()
}

// Step is a step of a plan. It prints itself as the commands that an operator would type.
// Each can be repeated.
type Step interface {
	fmt.Stringer
	title() string
}

// TagENI gives an ENI an owner.
type TagENI struct{ ENI, Owner string }

func (s TagENI) title() string { return "the owner of these ENIs becomes " + s.Owner }

// String returns the call of EC2.
func (s TagENI) String() string {
	return fmt.Sprintf("aws ec2 create-tags --resources %s --tags Key=%s,Value=%s", s.ENI, eni.TagOwner, s.Owner)
}

// Record writes events into the journal of the pool.
type Record struct{ Events []ipam.Event }

func (Record) title() string {
	return "our journal gets the ENIs, and the allocations of the checkpoints"
}

// String returns a comment for each event.
func (s Record) String() string {
	var b strings.Builder
	for _, e := range s.Events {
		switch e.Kind {
		case ipam.EventAllocated:
			fmt.Fprintf(&b, "# %s %v %v for %s/%s in %s\n", e.Kind, e.Attachment, e.Addrs, e.Pod.Namespace, e.Pod.Name, e.Netns)
		case ipam.EventBlockAdded:
			fmt.Fprintf(&b, "# %s %v on %s\n", e.Kind, e.Block, e.ENI)
		default:
			fmt.Fprintf(&b, "# %s %s (card %d, device %d)\n", e.Kind, e.ENI, e.Card, e.Device)
		}
	}
	return b.String()
}

// AdoptLink marks the host link of a pod that the other agent has wired.
type AdoptLink struct{ Pod datapath.Pod }

func (AdoptLink) title() string {
	return "links keep their names and MACs; their aliases record their pods"
}

// String returns the command of ip.
func (s AdoptLink) String() string {
	return fmt.Sprintf("ip link set dev %s alias '%s'", s.Pod.Adopted.Link, s.Pod.AdoptedAlias())
}

// DisownLink removes the mark.
type DisownLink struct{ Pod datapath.Pod }

func (DisownLink) title() string { return "links of pods lose our aliases" }

// String returns the command of ip.
func (s DisownLink) String() string {
	return fmt.Sprintf("ip link set dev %s alias ''", s.Pod.Adopted.Link)
}

// RenameLink gives a link another name.
type RenameLink struct{ From, To string }

func (RenameLink) title() string { return "links get the names that the other agent gives" }

// String returns the command of ip.
func (s RenameLink) String() string { return fmt.Sprintf("ip link set dev %s name %s", s.From, s.To) }

// Change changes links, addresses, routes and rules.
type Change struct {
	Why     string
	Changes []netstate.Change
}

func (s Change) title() string { return s.Why }

// String returns the commands of ip, nft and sysctl.
func (s Change) String() string {
	var b strings.Builder
	for _, c := range s.Changes {
		b.WriteString(c.String() + "\n")
	}
	return b.String()
}

// Translate makes our translation. Text has its rules for nftables.
type Translate struct{ Text string }

func (Translate) title() string { return "make our translation, beside that of the other agent" }

// String returns the command of nft.
func (s Translate) String() string { return "nft -f - <<'END'\n" + s.Text + "END" }

// Ensure removes what is in the way of our network, and verifies it.
type Ensure struct{ Changes []netstate.Change }

func (Ensure) title() string { return "remove what is in the way of our network, and verify it" }

// String returns the commands of ip.
func (s Ensure) String() string { return Change{"", s.Changes}.String() }

// Iptables changes chains of the other agent.
type Iptables struct {
	Why     string
	Variant iptables.Variant
	Text    string
}

func (s Iptables) title() string { return s.Why }

// String returns the command of iptables-restore.
func (s Iptables) String() string {
	return fmt.Sprintf("iptables-%s-restore --noflush <<'END'\n%sEND", s.Variant, s.Text)
}

// DeleteTable deletes the nftables table of the other agent.
type DeleteTable struct{}

func (DeleteTable) title() string { return "remove the nftables table of the other agent" }

// String returns the command of nft.
func (DeleteTable) String() string { return "nft delete table ip " + amazonTable }

// amazonTable is the name of the nftables table of amazon-vpc-cni-k8s, of family ip.
const amazonTable = "aws-cni"

// RemoveTranslation removes our translation.
type RemoveTranslation struct{}

func (RemoveTranslation) title() string { return "remove our translation" }

// String returns the command of nft.
func (RemoveTranslation) String() string { return "nft delete table inet vpcnet-snat" }

// WriteFile replaces a file in one step.
type WriteFile struct {
	Path string
	Text []byte
}

func (WriteFile) title() string { return "write the checkpoints" }

// String returns the command of the shell.
func (s WriteFile) String() string { return fmt.Sprintf("cat > %s <<'END'\n%s\nEND", s.Path, s.Text) }

// CopyFile replaces a file by a copy of another one, in one step. The file gets the name
// Backup before, if it is not empty and no file has that name.
type CopyFile struct{ From, To, Backup string }

func (CopyFile) title() string { return "the plugin of the other agent becomes a copy of ours" }

// String returns the commands of the shell.
func (s CopyFile) String() string {
	text := fmt.Sprintf("cp %s %s", s.From, s.To)
	if s.Backup != "" {
		text = fmt.Sprintf("cp --no-clobber %s %s\n%s", s.To, s.Backup, text)
	}
	return text
}

// MoveFile renames a file.
type MoveFile struct{ From, To string }

func (MoveFile) title() string { return "rename files of the other agent" }

// String returns the command of the shell.
func (s MoveFile) String() string { return fmt.Sprintf("mv %s %s", s.From, s.To) }

// RemoveFile removes a file.
type RemoveFile struct{ Path string }

func (RemoveFile) title() string { return "remove our CNI configuration" }

// String returns the command of the shell.
func (s RemoveFile) String() string { return "rm -f " + s.Path }

// Announce writes our CNI configuration.
type Announce struct{ Path string }

func (Announce) title() string { return "write our CNI configuration" }

// String returns a comment.
func (s Announce) String() string { return "# the network vpcnet in " + s.Path }

// Forget empties our journal.
type Forget struct{}

func (Forget) title() string { return "our journal is emptied" }

// String returns a comment.
func (Forget) String() string { return "# every allocation is in the checkpoints" }
