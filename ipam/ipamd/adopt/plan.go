// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"fmt"
	"strings"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/netstate"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat/iptables"
)

// plan is what a change-over does, in order, and what it leaves alone.
type plan struct {
	// Notes name what the sources do not agree on. Nothing of it changes.
	Notes []string
	Steps []step
}

// String returns the notes as comments, and the commands of the steps.
func (p plan) String() string {
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

// step is a step of a plan. It prints itself as the commands that an operator would type.
// Each can be repeated.
type step interface {
	fmt.Stringer
	title() string
}

// tagENI gives an ENI an owner.
type tagENI struct{ ENI, Owner string }

func (s tagENI) title() string { return "the owner of these ENIs becomes " + s.Owner }

// String returns the call of EC2.
func (s tagENI) String() string {
	return fmt.Sprintf("aws ec2 create-tags --resources %s --tags Key=%s,Value=%s", s.ENI, eni.TagOwner, s.Owner)
}

// recordEvents writes events into the journal of the pool.
type recordEvents struct{ Events []ipam.Event }

func (recordEvents) title() string {
	return "our journal gets the ENIs, and the allocations of the checkpoints"
}

// String returns a comment for each event.
func (s recordEvents) String() string {
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

// recordBranches records pods on branch ENIs.
type recordBranches struct{ Pods []ipamd.BranchPod }

func (recordBranches) title() string { return "our records get the pods on branch ENIs" }

// String returns a comment for each pod.
func (s recordBranches) String() string {
	var b strings.Builder
	for _, p := range s.Pods {
		fmt.Fprintf(&b, "# %v", p.Attachment)
		for _, a := range p.Wiring.Addrs {
			fmt.Fprintf(&b, " %v", a.Addr)
		}
		fmt.Fprintf(&b, " on %s, VLAN %d, for %s/%s in %s\n", p.Branch.ENI, p.Branch.VLANID, p.Pod.Namespace, p.Pod.Name, p.Wiring.Netns)
	}
	return b.String()
}

// markLink marks the host link of a pod that the other agent has wired.
type markLink struct{ Pod datapath.Pod }

func (markLink) title() string {
	return "links keep their names and MACs; their aliases record their pods"
}

// String returns the command of ip.
func (s markLink) String() string {
	return fmt.Sprintf("ip link set dev %s alias '%s'", s.Pod.Adopted.Link, s.Pod.AdoptedAlias())
}

// unmarkLink removes the mark.
type unmarkLink struct{ Pod datapath.Pod }

func (unmarkLink) title() string { return "links of pods lose our aliases" }

// String returns the command of ip.
func (s unmarkLink) String() string {
	text := fmt.Sprintf("ip link set dev %s alias ''", s.Pod.Adopted.Link)
	if m := s.Pod.Mode.Branch; m != nil {
		text += fmt.Sprintf("\nip link set dev %s alias ''", m.Link())
	}
	return text
}

// renameLink gives a link another name.
type renameLink struct{ From, To string }

func (renameLink) title() string { return "links get the names that the other agent gives" }

// String returns the command of ip.
func (s renameLink) String() string { return fmt.Sprintf("ip link set dev %s name %s", s.From, s.To) }

// applyChanges changes links, addresses, routes and rules.
type applyChanges struct {
	Why     string
	Changes []netstate.Change
}

func (s applyChanges) title() string { return s.Why }

// String returns the commands of ip, nft and sysctl.
func (s applyChanges) String() string {
	var b strings.Builder
	for _, c := range s.Changes {
		b.WriteString(c.String() + "\n")
	}
	return b.String()
}

// translate makes our translation. Text has its rules for nftables.
type translate struct{ Text string }

func (translate) title() string { return "make our translation, beside that of the other agent" }

// String returns the command of nft.
func (s translate) String() string { return "nft -f - <<'END'\n" + s.Text + "END" }

// ensureNetwork removes what is in the way of our network, and verifies it.
type ensureNetwork struct{ Changes []netstate.Change }

func (ensureNetwork) title() string { return "remove what is in the way of our network, and verify it" }

// String returns the commands of ip.
func (s ensureNetwork) String() string { return applyChanges{"", s.Changes}.String() }

// restoreChains changes chains of the other agent.
type restoreChains struct {
	Why     string
	Variant iptables.Variant
	Text    string
}

func (s restoreChains) title() string { return s.Why }

// String returns the command of iptables-restore.
func (s restoreChains) String() string {
	return fmt.Sprintf("iptables-%s-restore --noflush <<'END'\n%sEND", s.Variant, s.Text)
}

// deleteAmazonTable deletes the nftables table of the other agent.
type deleteAmazonTable struct{}

func (deleteAmazonTable) title() string { return "remove the nftables table of the other agent" }

// String returns the command of nft.
func (deleteAmazonTable) String() string { return "nft delete table ip " + amazonTable }

// amazonTable is the name of the nftables table of amazon-vpc-cni-k8s, of family ip.
const amazonTable = "aws-cni"

// removeTranslation removes our translation.
type removeTranslation struct{}

func (removeTranslation) title() string { return "remove our translation" }

// String returns the command of nft.
func (removeTranslation) String() string { return "nft delete table inet vpcnet-snat" }

// writeFile replaces a file in one step.
type writeFile struct {
	Path string
	Text []byte
}

func (writeFile) title() string { return "write the checkpoints" }

// String returns the command of the shell.
func (s writeFile) String() string { return fmt.Sprintf("cat > %s <<'END'\n%s\nEND", s.Path, s.Text) }

// copyFile replaces a file by a copy of another one, in one step. The file gets the name
// Backup before, if it is not empty and no file has that name.
type copyFile struct{ From, To, Backup string }

func (copyFile) title() string { return "the plugin of the other agent becomes a copy of our plugin" }

// String returns the commands of the shell.
func (s copyFile) String() string {
	text := fmt.Sprintf("cp %s %s", s.From, s.To)
	if s.Backup != "" {
		text = fmt.Sprintf("cp --no-clobber %s %s\n%s", s.To, s.Backup, text)
	}
	return text
}

// moveFile renames a file.
type moveFile struct{ From, To string }

func (moveFile) title() string { return "rename files of the other agent" }

// String returns the command of the shell.
func (s moveFile) String() string { return fmt.Sprintf("mv %s %s", s.From, s.To) }

// removeFile removes a file.
type removeFile struct{ Path string }

func (removeFile) title() string { return "remove our CNI configuration" }

// String returns the command of the shell.
func (s removeFile) String() string { return "rm -f " + s.Path }

// announce writes our CNI configuration.
type announce struct{ Path string }

func (announce) title() string { return "write our CNI configuration" }

// String returns a comment.
func (s announce) String() string { return "# the network vpcnet in " + s.Path }

// forget empties our journal.
type forget struct{}

func (forget) title() string { return "our journal is emptied" }

// String returns a comment.
func (forget) String() string { return "# every allocation is in the checkpoints" }
