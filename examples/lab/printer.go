// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// textWidth is the line width of prose, which most terminals and pagers can show.
const textWidth = 96

// printer prints the walk. It uses styles on terminals only, so that a pipe or a
// file gets plain text.
type printer struct {
	out      io.Writer // gets the walk
	status   io.Writer // gets progress, which is redrawn in place if live is set
	colour   bool
	live     bool
	sections int
}

// newPrinter returns a printer that prints the walk to out. With asJSON, out is for
// the JSON object, and the printer prints only progress, to stderr.
func newPrinter(out, stderr *os.File, asJSON bool) *printer {
	p := &printer{out: out, status: out, colour: isTerminal(out) && os.Getenv("NO_COLOR") == ""}
	if asJSON {
		p.out, p.status, p.colour = io.Discard, stderr, false
	}
	if f, ok := p.status.(*os.File); ok {
		p.live = isTerminal(f)
	}
	return p
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && f.Name() != os.DevNull
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (p *printer) style(code, s string) string {
	if !p.colour || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// section starts a numbered part of the walk.
func (p *printer) section(title string) {
	p.sections++
	head := fmt.Sprintf("%d. %s", p.sections, title)
	fmt.Fprintf(p.out, "\n%s\n%s\n", p.style(bold, head), p.style(dim, strings.Repeat("=", len([]rune(head)))))
}

// text prints prose that explains the next lines.
func (p *printer) text(format string, args ...any) {
	fmt.Fprintln(p.out)
	for _, line := range wrap(fmt.Sprintf(format, args...), textWidth) {
		fmt.Fprintln(p.out, line)
	}
}

// command prints lines, and the command that shows the same lines at place.
func (p *printer) command(place, cmd string, lines []string) {
	fmt.Fprintf(p.out, "\n  %s %s\n", p.style(cyan, place+"$"), p.style(bold, cmd))
	p.block(lines)
}

// block prints lines with an indentation.
func (p *printer) block(lines []string) {
	for _, l := range lines {
		fmt.Fprintln(p.out, strings.TrimRight("    "+l, " "))
	}
}

// check prints the outcome of a check.
func (p *printer) check(c check) {
	mark := p.style(green, "ok  ")
	if !c.OK {
		mark = p.style(red, "FAIL")
	}
	fmt.Fprintf(p.out, "\n  [%s] %s\n", mark, p.style(bold, c.Name))
	for _, l := range wrap(c.Detail, textWidth-9) {
		fmt.Fprintln(p.out, "         "+l)
	}
}

// progress shows a running action until done is called, which replaces it by a line
// with the result, unless that is empty.
func (p *printer) progress(format string, args ...any) (done func(result string)) {
	what, start := fmt.Sprintf(format, args...), time.Now()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		if !p.live {
			return
		}
		ticks := time.NewTicker(100 * time.Millisecond)
		defer ticks.Stop()
		for {
			fmt.Fprintf(p.status, "\r\x1b[K  %s ... %.1f s", what, time.Since(start).Seconds())
			select {
			case <-ticks.C:
			case <-stop:
				fmt.Fprint(p.status, "\r\x1b[K")
				return
			}
		}
	}()
	return func(result string) {
		close(stop)
		<-stopped
		if result != "" {
			fmt.Fprintf(p.status, "  %s: %s (%.1f s)\n", what, result, time.Since(start).Seconds())
		}
	}
}

// wrap breaks text into lines of at most width characters.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// columns formats rows as a table, with two spaces between the columns.
func columns(rows [][]string) []string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	lines := make([]string, 0, len(rows))
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-len([]rune(cell))+2))
			}
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}
