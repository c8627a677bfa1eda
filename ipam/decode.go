// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"net/netip"
	"strconv"
)

// decodePlain decodes a line as EncodeEvent writes it, if none of its texts has a character
// that JSON escapes. It reports false for any other line, which may be valid JSON too. It
// needs a small part of the time of encoding/json: a node with a thousand pods decodes
// thousands of events before it can serve the next pod.
func decodePlain(line []byte) (e Event, ok bool) {
	p := parser{rest: line, plain: true}
	p.object(func(key string) {
		switch key {
		case "kind":
			e.Kind = Kind(p.text())
		case "at":
			p.check(e.At.UnmarshalText(p.bytes()))
		case "eni":
			e.ENI = p.text()
		case "card":
			e.Card = p.int()
		case "device":
			e.Device = p.int()
		case "block":
			p.check(e.Block.UnmarshalText(p.bytes()))
		case "next":
			e.Next = p.addr()
		case "attachment":
			p.object(func(key string) {
				p.field(key, "network", &e.Attachment.Network, "containerID", &e.Attachment.ContainerID, "ifName", &e.Attachment.IfName)
			})
		case "addrs":
			e.Addrs = p.addrs()
		case "pod":
			p.object(func(key string) { p.field(key, "namespace", &e.Pod.Namespace, "name", &e.Pod.Name, "uid", &e.Pod.UID) })
		case "netns":
			e.Netns = p.text()
		case "sandbox":
			e.Sandbox = p.uint()
		case "mac":
			e.MAC = p.text()
		case "by":
			e.By = p.text()
		default:
			p.plain = false
		}
	})
	return e, p.plain && len(p.rest) == 0
}

// parser reads JSON without white space, escapes and other characters than those of ASCII.
// What it cannot read makes plain false, and then all further results are zero.
type parser struct {
	rest  []byte
	plain bool
}

// skip skips a character, and reports whether it is the next one.
func (p *parser) skip(c byte) bool {
	if !p.plain || len(p.rest) == 0 || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// want skips a character, which must be the next one.
func (p *parser) want(c byte) { p.plain = p.skip(c) }

// check notes the error of a value.
func (p *parser) check(err error) { p.plain = p.plain && err == nil }

// object reads an object with at least one field. It calls value for each key, to read its
// value.
func (p *parser) object(value func(key string)) {
	p.want('{')
	for more := true; more && p.plain; more = p.skip(',') {
		key := p.bytes()
		p.want(':')
		if p.plain {
			value(string(key))
		}
	}
	p.want('}')
}

// field reads the text of a key, which is one of three.
func (p *parser) field(key, a string, toA *string, b string, toB *string, c string, toC *string) {
	switch key {
	case a:
		*toA = p.text()
	case b:
		*toB = p.text()
	case c:
		*toC = p.text()
	default:
		p.plain = false
	}
}

// bytes reads a text. The result is a part of the line.
func (p *parser) bytes() []byte {
	p.want('"')
	end := bytes.IndexByte(p.rest, '"')
	if !p.plain || end < 0 {
		p.plain = false
		return nil
	}
	text := p.rest[:end]
	for _, c := range text {
		p.plain = p.plain && c >= ' ' && c <= '~' && c != '\\'
	}
	p.rest = p.rest[end+1:]
	return text
}

func (p *parser) text() string { return string(p.bytes()) }

// digits reads a number without sign, fraction and exponent.
func (p *parser) digits() string {
	n := 0
	for n < len(p.rest) && '0' <= p.rest[n] && p.rest[n] <= '9' {
		n++
	}
	p.plain = p.plain && n > 0 && (p.rest[0] != '0' || n == 1)
	text := string(p.rest[:n])
	p.rest = p.rest[n:]
	return text
}

func (p *parser) int() int {
	n, err := strconv.Atoi(p.digits())
	p.check(err)
	return n
}

func (p *parser) uint() uint64 {
	n, err := strconv.ParseUint(p.digits(), 10, 64)
	p.check(err)
	return n
}

func (p *parser) addr() (a netip.Addr) {
	p.check(a.UnmarshalText(p.bytes()))
	return a
}

// addrs reads a list with at least one address.
func (p *parser) addrs() (all []netip.Addr) {
	p.want('[')
	for more := true; more && p.plain; more = p.skip(',') {
		all = append(all, p.addr())
	}
	p.want(']')
	return all
}
