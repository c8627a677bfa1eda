// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// line is one setting of a file.
type line struct {
	number      int
	name, value string
}

// parseLines parses a file: lines NAME=value, empty lines, and comments, which begin with
// #. Quotes belong to the value. file is the name for errors.
func parseLines(file, text string) ([]line, error) {
	var out []line
	number := 0
	for l := range strings.Lines(text) {
		number++
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		name, v, ok := strings.Cut(l, "=")
		name = strings.TrimSpace(name)
		if !ok || name == "" {
			return nil, fmt.Errorf("%s:%d: %.40q is not of the form NAME=value", file, number, l)
		}
		if i := slices.IndexFunc(out, func(o line) bool { return o.name == name }); i >= 0 {
			return nil, fmt.Errorf("%s:%d: %s is in line %d already", file, number, name, out[i].number)
		}
		out = append(out, line{number, name, strings.TrimSpace(v)})
	}
	return out, nil
}

// setLines sets the settings of the file that are not given, and then those of the
// texts. It returns the values of the variables that only amazon-vpc-cni-k8s has.
func (s *Settings) setLines(options []option, texts []string) (foreign map[string]string, err error) {
	foreign = map[string]string{}
	if s.configFile != "" {
		content, err := os.ReadFile(s.configFile)
		if err != nil {
			return foreign, fmt.Errorf("-config (VPCNET_CONFIG): %w", err)
		}
		lines, err := parseLines(s.configFile, string(content))
		if err == nil {
			err = s.set(options, s.configFile, lines, false, foreign)
		}
		if err != nil {
			return foreign, err
		}
	}
	const name = "settings" // of the texts in errors
	for _, text := range texts {
		lines, err := parseLines(name, text)
		if err == nil {
			err = s.set(options, name, lines, true, foreign)
		}
		if err != nil {
			return foreign, err
		}
	}
	return foreign, nil
}

// set sets the settings of lines: those that are not given, or with running all that are
// live. It adds the values of variables that only amazon-vpc-cni-k8s has to foreign.
func (s *Settings) set(options []option, file string, lines []line, running bool, foreign map[string]string) error {
	for _, l := range lines {
		if l.value == "" {
			continue // counts as not set
		}
		if slices.ContainsFunc(missing, func(m absent) bool { return m.env == l.name }) {
			foreign[l.name] = l.value
			continue
		}
		i := slices.IndexFunc(options, func(o option) bool { return o.env == l.name })
		switch {
		case i < 0:
			return fmt.Errorf("%s:%d: there is no setting %s", file, l.number, l.name)
		case options[i].name == "config":
			return fmt.Errorf("%s:%d: a file cannot name another one by %s", file, l.number, l.name)
		case running && options[i].effect() != Live:
			return fmt.Errorf("%s:%d: %s takes effect only when the agent starts; set it in the file of -config (VPCNET_CONFIG)", file, l.number, l.name)
		case !running && s.given[options[i].name]:
			s.warnings = append(s.warnings, fmt.Sprintf("%s:%d: %s is overridden by its flag or environment variable", file, l.number, l.name))
			continue
		}
		if err := options[i].value.Set(l.value); err != nil {
			return fmt.Errorf("%s:%d: %s=%q: %w", file, l.number, l.name, l.value, err)
		}
	}
	for _, l := range lines {
		if i := slices.IndexFunc(options, func(o option) bool { return o.env == l.name }); i >= 0 && l.value != "" {
			s.given[options[i].name] = true
		}
	}
	return nil
}
