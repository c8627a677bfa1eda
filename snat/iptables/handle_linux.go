// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpcnet/vpcnet/internal/nft"
	"github.com/vpcnet/vpcnet/snat"
)

// namespace is our chains in one network namespace. It implements [system].
type namespace struct {
	file   *os.File
	own    bool        // the namespace is that of the process
	socket *nft.Socket // tells whether any table of nftables has changed
	use    programs
	other  []programs // of the other variant
	within time.Duration
	ipv6   bool // the kernel has IPv6
	// turn holds one token. Its holder may run programs and use the next fields.
	turn chan struct{}
	// cleared means that the other variant has none of our chains.
	cleared bool
	closed  bool
	// unlocked is when this handle last gave the lock of the namespace back.
	unlocked time.Time

	mu      sync.Mutex
	applied snat.IptablesRuleset // the content that this handle last made the chains hold
	count   int                  // how often it did
}

func open(ctx context.Context, cfg Config) (system, error) {
	all, err := find(ctx)
	if err != nil {
		return nil, err
	}
	n := &namespace{within: cfg.Within, turn: make(chan struct{}, 1)}
	_, err = os.Stat("/proc/net/if_inet6")
	n.ipv6 = err == nil
	n.own = cfg.Netns == ""
	if n.file, err = os.Open(cmp.Or(cfg.Netns, "/proc/thread-self/ns/net")); err != nil {
		return nil, fmt.Errorf("snat/iptables: %w", err)
	}
	n.socket = nft.New(n.file)
	ctx, cancel := context.WithTimeout(ctx, n.within)
	defer cancel()
	n.use, n.other, err = choose(all, cfg.Variant, func(p programs) (string, error) {
		ipv4, ipv6, err := n.save(ctx, p)
		if err != nil { // the kernel may lack the variant
			return "", ctx.Err()
		}
		return ipv4 + ipv6, nil
	})
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *namespace) Variant() Variant { return n.use.variant }

func (n *namespace) Close() error {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	if n.closed {
		return nil
	}
	n.closed = true
	return errors.Join(n.socket.Close(), n.file.Close())
}

// inTurn calls do while no other call runs programs. The context of do ends after the bound.
func (n *namespace) inTurn(ctx context.Context, do func(context.Context) error) error {
	return n.inTurnWithin(ctx, n.within, do)
}

// inTurnWithin is inTurn with another bound.
func (n *namespace) inTurnWithin(ctx context.Context, bound time.Duration, do func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	select {
	case n.turn <- struct{}{}:
	case <-bounded.Done():
		return fmt.Errorf("snat/iptables: %w", bounded.Err())
	}
	defer func() { <-n.turn }()
	if n.closed {
		return fmt.Errorf("snat/iptables: handle: %w", os.ErrClosed)
	}
	err := do(bounded)
	if err != nil {
		err = fmt.Errorf("snat/iptables: %w", err)
		if bounded.Err() != nil && !errors.Is(err, bounded.Err()) {
			err = fmt.Errorf("%w: %w", err, bounded.Err())
		}
	}
	return err
}

func (n *namespace) Apply(ctx context.Context, want snat.IptablesRuleset) (changed bool, err error) {
	err = n.inTurn(ctx, func(ctx context.Context) (err error) {
		unlock, err := n.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		if changed, err = n.replace(ctx, n.use, want); err != nil {
			return err
		}
		n.record(want)
		return n.clear(ctx)
	})
	return changed, err
}

// lock excludes other handles of the namespace, also those of other processes, from reading
// and changing our chains: two changes that begin with the same rules would add the same
// jumps twice. iptables-nft has no lock, and the lock of iptables-legacy does not cover the
// reading. The lock is that of flock(2) on the namespace.
//
// A process without privileges can hold it too. Therefore lock waits for a part of the time
// only, and the caller then goes on without it.
func (n *namespace) lock(ctx context.Context) (unlock func(), err error) {
	const often = 10 * time.Millisecond
	fd := int(n.file.Fd())
	// After a call of this handle it is the turn of others, which ask every 10 ms.
	pause := time.NewTimer(time.Until(n.unlocked.Add(2 * often)))
	defer pause.Stop()
	for end := time.Now().Add(n.within / 4); ; pause.Reset(often) {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("another handle changes our chains: %w", ctx.Err())
		}
		switch err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return func() {
				_ = unix.Flock(fd, unix.LOCK_UN) // fails only for a closed file
				n.unlocked = time.Now()
			}, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, fmt.Errorf("lock the namespace: %w", err)
		case time.Now().After(end):
			return func() {}, nil
		}
	}
}

func (n *namespace) Observe(ctx context.Context) (r snat.IptablesRuleset, err error) {
	err = n.inTurn(ctx, func(ctx context.Context) (err error) {
		r, err = n.read(ctx, n.use, snat.IptablesRuleset{})
		return err
	})
	return r, err
}

func (n *namespace) Remove(ctx context.Context) error {
	_, err := n.Apply(ctx, snat.IptablesRuleset{})
	return err
}

// clear removes our chains from the other variant. If they cannot be read, as on a kernel
// without that variant, a later call tries again.
func (n *namespace) clear(ctx context.Context) error {
	if n.cleared {
		return nil
	}
	for _, p := range n.other {
		have, err := n.read(ctx, p, snat.IptablesRuleset{})
		if err != nil {
			return ctx.Err()
		}
		if err := n.restore(ctx, p, have, snat.IptablesRuleset{}); err != nil {
			return err
		}
	}
	n.cleared = true
	return nil
}

func (n *namespace) Save(ctx context.Context) (map[Variant]string, error) {
	saved := map[Variant]string{}
	err := n.inTurn(ctx, func(ctx context.Context) error {
		for _, p := range append([]programs{n.use}, n.other...) {
			text, err := n.run(ctx, p.variant, p.ipv4.save, "")
			if ctx.Err() != nil {
				return err
			}
			if err == nil { // the kernel may lack the variant
				saved[p.variant] = text
			}
		}
		return nil
	})
	return saved, err
}

func (n *namespace) Restore(ctx context.Context, v Variant, text string) error {
	return n.inTurn(ctx, func(ctx context.Context) error {
		for _, p := range append([]programs{n.use}, n.other...) {
			if p.variant == v {
				return n.restoreText(ctx, v, p.ipv4.restore, text)
			}
		}
		return fmt.Errorf("%w: of variant %s", ErrNoProgram, v)
	})
}

// record notes that our chains hold r.
func (n *namespace) record(r snat.IptablesRuleset) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applied, n.count = r, n.count+1
}

// recorded returns the content that this handle last made the chains hold, and how often it
// did.
func (n *namespace) recorded() (r snat.IptablesRuleset, count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.applied, n.count
}

// maxAttempts bounds how often replace begins again because other programs change the same
// rules.
const maxAttempts = 5

// replace makes our chains hold want, and reports whether they did not.
func (n *namespace) replace(ctx context.Context, p programs, want snat.IptablesRuleset) (changed bool, err error) {
	have, err := n.read(ctx, p, want)
	if err != nil {
		return false, err
	}
	for range maxAttempts {
		if have.Equal(want) {
			return changed, nil
		}
		changed = true
		failed := n.restore(ctx, p, have, want)
		if failed == nil {
			return true, nil
		}
		// Another program may have removed a rule that this change removes too.
		again, err := n.read(ctx, p, want)
		if err != nil || errors.Is(failed, ErrLocked) || again.Equal(have) {
			return true, failed
		}
		have = again
	}
	return changed, errors.New("other programs change our chains without pause")
}

// read reads our chains of one variant. On a kernel without IPv6, the chains of IPv6 are as
// they are wanted.
func (n *namespace) read(ctx context.Context, p programs, want snat.IptablesRuleset) (snat.IptablesRuleset, error) {
	ipv4, ipv6, err := n.save(ctx, p)
	if err != nil {
		return snat.IptablesRuleset{}, err
	}
	if !n.ipv6 {
		ipv6 = want.IPv6()
	}
	return snat.ReadIptables(ipv4, ipv6)
}

// save returns all tables of one variant.
func (n *namespace) save(ctx context.Context, p programs) (ipv4, ipv6 string, err error) {
	if ipv4, err = n.run(ctx, p.variant, p.ipv4.save, ""); err != nil || !n.ipv6 {
		return ipv4, "", err
	}
	ipv6, err = n.run(ctx, p.variant, p.ipv6.save, "")
	return ipv4, ipv6, err
}

// restore makes the chains, which hold have, hold want.
func (n *namespace) restore(ctx context.Context, p programs, have, want snat.IptablesRuleset) error {
	for _, f := range []struct {
		program []string
		text    string
	}{{p.ipv4.restore, have.IPv4Change(want)}, {p.ipv6.restore, have.IPv6Change(want)}} {
		if f.text == "" {
			continue
		}
		if err := n.restoreText(ctx, p.variant, f.program, f.text); err != nil {
			return err
		}
	}
	return nil
}

// restoreText gives a text to a program, iptables-restore or ip6tables-restore.
func (n *namespace) restoreText(ctx context.Context, v Variant, program []string, text string) error {
	// With 0 seconds, or without the option, the program waits without a bound.
	end, _ := ctx.Deadline()
	seconds := int(time.Until(end) / time.Second)
	if seconds < 1 {
		return fmt.Errorf("%s does not start: %w", program[0], context.DeadlineExceeded)
	}
	line := append(program[:len(program):len(program)], "--wait", strconv.Itoa(seconds), "--noflush")
	_, err := n.run(ctx, v, line, text)
	return err
}

// statusLocked is the exit status RESOURCE_PROBLEM of iptables. The legacy variant has it if
// another program holds the lock; the nft variant has no lock, and uses it otherwise.
const statusLocked = 4

// run runs a program in the namespace and returns its output.
func (n *namespace) run(ctx context.Context, v Variant, line []string, in string) (string, error) {
	var out, problem strings.Builder
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &problem
	cmd.WaitDelay = time.Second
	err := n.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return out.String(), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: %w", line[0], ctx.Err())
	case errors.As(err, &exit) && exit.ExitCode() == statusLocked && v == Legacy:
		err = ErrLocked
	}
	text := strings.Join(strings.Fields(problem.String()), " ")
	return "", fmt.Errorf("%s: %w: %s", strings.Join(line, " "), err, text)
}

// start starts a program in the namespace.
func (n *namespace) start(cmd *exec.Cmd) error {
	if n.own {
		return cmd.Start()
	}
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer own.Close()
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the namespace: %w", err)
	}
	started := cmd.Start()
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		// The thread stays locked, and ends with its goroutine.
		return errors.Join(started, fmt.Errorf("leave the namespace: %w", err))
	}
	runtime.UnlockOSThread()
	return started
}
