// SPDX-License-Identifier: Apache-2.0

package filedamage

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
)

// Kind is a kind of damage to a file.
type Kind struct {
	Name string
	// content returns the damaged content of the file. It may change data. Nil if
	// replace is set.
	content func(r *rand.Rand, data []byte) []byte
	// replace creates something else at path, after the file was removed.
	replace func(path string) error
}

// Apply damages the file at path. Only r determines the result.
func (k Kind) Apply(r *rand.Rand, path string) error {
	if k.replace != nil {
		if err := os.Remove(path); err != nil {
			return err
		}
		return k.replace(path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, k.content(r, data), 0o600)
}

// Kinds returns all kinds of damage.
func Kinds() []Kind {
	return append(contents(), []Kind{
		{Name: "missing", replace: func(string) error { return nil }},
		{Name: "directory", replace: func(path string) error { return os.Mkdir(path, 0o700) }},
		{Name: "dangling link", replace: func(path string) error { return os.Symlink("gone", path) }},
		{Name: "link to itself", replace: func(path string) error { return os.Symlink(path, path) }},
	}...)
}

func contents() []Kind {
	return []Kind{
		{Name: "one bit", content: func(r *rand.Rand, d []byte) []byte { return flip(r, d, 1) }},
		{Name: "some bits", content: func(r *rand.Rand, d []byte) []byte { return flip(r, d, 2+r.IntN(30)) }},
		{Name: "one byte", content: func(r *rand.Rand, d []byte) []byte {
			d[r.IntN(len(d))] = byte(r.Uint32())
			return d
		}},
		{Name: "a digit", content: digit},
		{Name: "cut anywhere", content: func(r *rand.Rand, d []byte) []byte { return d[:r.IntN(len(d))] }},
		{Name: "cut at a line", content: func(r *rand.Rand, d []byte) []byte { return d[:line(r, d)] }},
		{Name: "cut at a block", content: func(r *rand.Rand, d []byte) []byte { return d[:block(r, d)] }},
		{Name: "beginning cut off", content: func(r *rand.Rand, d []byte) []byte { return d[1+r.IntN(len(d)-1):] }},
		{Name: "zeroes", content: func(r *rand.Rand, d []byte) []byte {
			a, b := span(r, d)
			clear(d[a:b])
			return d
		}},
		{Name: "zeroes to the end", content: func(r *rand.Rand, d []byte) []byte {
			clear(d[block(r, d):])
			return d
		}},
		{Name: "rubbish", content: func(r *rand.Rand, d []byte) []byte {
			a, b := span(r, d)
			return append(append(bytes.Clone(d[:a]), rubbish(r, b-a)...), d[b:]...)
		}},
		{Name: "left out", content: func(r *rand.Rand, d []byte) []byte {
			a, b := span(r, d)
			return slices.Delete(d, a, b)
		}},
		{Name: "lines left out", content: func(r *rand.Rand, d []byte) []byte {
			a, b := line(r, d), line(r, d)
			return slices.Delete(d, min(a, b), max(a, b))
		}},
		{Name: "twice", content: func(r *rand.Rand, d []byte) []byte {
			a, b := span(r, d)
			return slices.Insert(d, b, bytes.Clone(d[a:b])...)
		}},
		{Name: "lines twice", content: func(r *rand.Rand, d []byte) []byte {
			a, b := line(r, d), line(r, d)
			return slices.Insert(d, max(a, b), bytes.Clone(d[min(a, b):max(a, b)])...)
		}},
		{Name: "over another place", content: func(r *rand.Rand, d []byte) []byte {
			a, b := span(r, d)
			copy(d[r.IntN(len(d)):], bytes.Clone(d[a:b]))
			return d
		}},
		{Name: "blocks swapped", content: swap},
		{Name: "rubbish appended", content: func(r *rand.Rand, d []byte) []byte { return append(d, rubbish(r, 1+r.IntN(9000))...) }},
		{Name: "zeroes appended", content: func(r *rand.Rand, d []byte) []byte { return append(d, make([]byte, 1+r.IntN(9000))...) }},
		{Name: "its own end appended", content: func(r *rand.Rand, d []byte) []byte { return append(d, bytes.Clone(d[line(r, d):])...) }},
		{Name: "itself appended", content: func(_ *rand.Rand, d []byte) []byte { return append(d, bytes.Clone(d)...) }},
		{Name: "empty", content: func(*rand.Rand, []byte) []byte { return nil }},
		{Name: "all zeroes", content: func(_ *rand.Rand, d []byte) []byte { return make([]byte, len(d)) }},
		{Name: "all rubbish", content: func(r *rand.Rand, d []byte) []byte { return rubbish(r, len(d)) }},
	}
}

func flip(r *rand.Rand, d []byte, n int) []byte {
	for range n {
		d[r.IntN(len(d))] ^= 1 << r.IntN(8)
	}
	return d
}

// digit changes one digit into another one, so that an address or a number is
// well formed but wrong.
func digit(r *rand.Rand, d []byte) []byte {
	start := r.IntN(len(d))
	for i := range d {
		if c := &d[(start+i)%len(d)]; *c >= '0' && *c <= '9' {
			*c = '0' + (*c-'0'+byte(1+r.IntN(9)))%10
			break
		}
	}
	return d
}

func swap(r *rand.Rand, d []byte) []byte {
	const size = 512
	n := len(d) / size
	if n < 2 {
		slices.Reverse(d)
		return d
	}
	i := r.IntN(n)
	a, b := d[i*size:][:size], d[(i+1+r.IntN(n-1))%n*size:][:size]
	kept := bytes.Clone(a)
	copy(a, b)
	copy(b, kept)
	return d
}

// line returns the offset of a random line other than the first, or half the
// length of data without lines.
func line(r *rand.Rand, d []byte) int {
	if n := bytes.Count(d, []byte{'\n'}); n > 0 {
		at := 0
		for range 1 + r.IntN(n) {
			at += bytes.IndexByte(d[at:], '\n') + 1
		}
		return at
	}
	return len(d) / 2
}

// block returns the offset of a random block.
func block(r *rand.Rand, d []byte) int {
	const size = 512
	return r.IntN(len(d)/size+1) * size
}

// span returns a random range of bytes, often whole blocks.
func span(r *rand.Rand, d []byte) (from, to int) {
	if r.IntN(2) == 0 {
		from = block(r, d)
		to = min(len(d), from+512<<r.IntN(4))
	}
	if from == to {
		from = r.IntN(len(d))
		to = from + 1 + r.IntN(len(d)-from)
	}
	return from, to
}

func rubbish(r *rand.Rand, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return out
}
