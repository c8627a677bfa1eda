// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// redacted stands in the place of a secret.
const redacted = "[redacted]"

// secretName matches the names of variables, fields and headers that have secrets as values.
const secretName = `[\w.-]*(?:secret|token|passw|passphrase|credential|private[_-]?key|access[_-]?key|api[_-]?key|signature|cookie|psk)[\w.-]*`

// secretWords has a word of each name that secretName matches, and of the headers, in small
// letters. Without one of them in a text, the patterns with names match nothing: they are slow.
var secretWords = []string{"secret", "token", "passw", "passphrase", "credential", "private", "access", "api", "signature", "cookie", "psk", "authorization"}

// The patterns of secrets. Objects, lists and numbers stay. So does the text after a path, such
// as /latest/api/token in an error.
var (
	secretEnv    = regexp.MustCompile(`(?i)^` + secretName + `$`)
	privateKey   = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`)
	header       = regexp.MustCompile(`(?i)(authorization\\*["']?\s*[:=]\s*\\*["']?)[^"'\\\r\n]+`)
	scheme       = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}`)
	quotedValue  = regexp.MustCompile(`(?i)(` + secretName + `\\*["']?\s*[:=]\s*)"((?:[^"\\\r\n]|\\[^\r\n])*)"`)
	singleValue  = regexp.MustCompile(`(?i)(` + secretName + `\\*["']?\s*[:=]\s*)'[^'\r\n]*'`)
	escapedValue = regexp.MustCompile(`(?i)(` + secretName + `\\*["']\s*[:=]\s*\\+["'])[^"\\\r\n]*`)
	plainValue   = regexp.MustCompile(`(?i)((?:^|[^/\w.-])` + secretName + `["']?\s*[:=]\s*)([^\s"'\\,;&{}\[\]]+)`)
	userInfo     = regexp.MustCompile(`://[^/\s:@"']+:[^/\s@"']+@`)
	accessKey    = regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b`)
	jwt          = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`)
	base64Key    = regexp.MustCompile(`[A-Za-z0-9+/]{40,}`)
	longHex      = regexp.MustCompile(`\b[0-9a-f]{32,}\b`)
	literal      = regexp.MustCompile(`^(?:null|true|false|-?[0-9.]+)$`)
)

// hexLength is the least length of what longHex matches. secretLength is that of a secret access key of AWS.
const (
	hexLength    = 32
	secretLength = 40
)

// hexKept is how much is kept of the ID of a sandbox: enough to tell sandboxes apart. With all
// of it a process could impersonate the runtime.
const hexKept = 12

// secretsOf returns the values of secret variables in environ, which has lines NAME=value.
// Those with fewer than six letters can be a part of any text, and do not count.
func secretsOf(environ []string) (values []string) {
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if secretEnv.MatchString(name) && len(value) >= 6 {
			values = append(values, value)
		}
	}
	return values
}

// redact removes secrets from a text: credentials of AWS, values of names such as password and
// token, private keys, passwords in URLs, and the given values. It shortens the IDs of
// sandboxes. JSON stays JSON.
func redact(text string, values []string) string {
	for _, v := range values {
		text = strings.ReplaceAll(text, v, redacted)
	}
	lower := strings.ToLower(text)
	if slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(lower, w) }) {
		text = redactNamed(text)
	}
	text = scheme.ReplaceAllString(text, "${1} "+redacted)
	text = userInfo.ReplaceAllString(text, "://"+redacted+"@")
	text = accessKey.ReplaceAllString(text, redacted)
	text = jwt.ReplaceAllString(text, redacted)
	if len(text) < hexLength {
		return text
	}
	text = longHex.ReplaceAllStringFunc(text, func(s string) string { return s[:hexKept] + "..." })
	return base64Key.ReplaceAllStringFunc(text, func(s string) string {
		if len(s) == secretLength && mixed(s) && strings.Count(s, "/") <= 4 {
			return redacted
		}
		return s
	})
}

// redactNamed removes the values of names that have secrets.
func redactNamed(text string) string {
	text = privateKey.ReplaceAllString(text, redacted)
	text = header.ReplaceAllString(text, "${1}"+redacted)
	text = quotedValue.ReplaceAllString(text, `${1}"`+redacted+`"`)
	text = singleValue.ReplaceAllString(text, "${1}'"+redacted+"'")
	text = escapedValue.ReplaceAllString(text, "${1}"+redacted)
	return plainValue.ReplaceAllStringFunc(text, func(s string) string {
		m := plainValue.FindStringSubmatch(s)
		if literal.MatchString(m[2]) {
			return s
		}
		return m[1] + redacted
	})
}

// redactLog is redact for a log, the lines of which may be JSON objects.
func redactLog(text string, values []string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		var compact bytes.Buffer
		if doc, err := redactJSON([]byte(line), values); err == nil && json.Compact(&compact, doc) == nil {
			line = compact.String() + "\n"
		}
		b.WriteString(redact(line, values))
	}
	return b.String()
}

// redactJSON is redact for a JSON document: it looks at each string as it is without escapes.
func redactJSON(doc []byte, values []string) ([]byte, error) {
	if !json.Valid(doc) {
		return nil, errors.New("the text is not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber() // numbers of 64 bits stay exact
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return json.MarshalIndent(redactValue(v, values), "", " ")
}

// redactValue removes secrets from a decoded JSON value.
func redactValue(v any, values []string) any {
	switch v := v.(type) {
	case string:
		return redact(v, values)
	case []any:
		for i := range v {
			v[i] = redactValue(v[i], values)
		}
	case map[string]any:
		for name, x := range v {
			if text, ok := x.(string); ok && text != "" && secretEnv.MatchString(name) {
				v[name] = redacted
			} else {
				v[name] = redactValue(x, values)
			}
		}
	}
	return v
}

// mixed reports whether a text has capital letters, small letters and digits, as random text
// has.
func mixed(s string) bool {
	return strings.ContainsFunc(s, unicode.IsUpper) && strings.ContainsFunc(s, unicode.IsLower) && strings.ContainsFunc(s, unicode.IsDigit)
}
