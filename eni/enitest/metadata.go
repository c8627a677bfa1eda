// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The name and the ID of the role of every instance.
const (
	roleName = "node"
	roleID   = "AROAENITESTNODEROLE01"
)

// session is a session token of IMDSv2.
type session struct {
	instance string
	ends     time.Time
}

// maxSession is the longest lifetime of a session token, in seconds.
const maxSession = 21600

// IMDSHandler serves the metadata of one instance.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html
func (c *Cloud) IMDSHandler(instance string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serveMetadata(w, r, instance) })
}

// MetadataHandler serves the metadata of all instances. It identifies the instance
// by the source address of the request, a private address of an attached ENI.
func (c *Cloud) MetadataHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, "RemoteAddr of the request is not an address with a port", http.StatusBadRequest)
			return
		}
		c.serveMetadata(w, r, c.instanceAt(from.Addr().Unmap()))
	})
}

// instanceAt returns the ID of the instance with an attached ENI that owns the
// address. It is empty if there is none.
func (c *Cloud) instanceAt(a netip.Addr) string {
	t := c.begin()
	defer t.end()
	for _, e := range t.allENIs(t.now) {
		has := func(p netip.Prefix) bool { return p.Contains(a) }
		if e.Attachment != nil && slices.ContainsFunc(e.owned(), has) {
			return e.Attachment.Instance
		}
	}
	return ""
}

func (c *Cloud) serveMetadata(w http.ResponseWriter, r *http.Request, instance string) {
	version, path := splitVersion(r.URL.Path)
	fault := c.matchFaults(path, instance)
	switch {
	case !wait(r.Context(), fault):
		panic(http.ErrAbortHandler)
	case fault.Err != nil:
		http.Error(w, fault.Err.Message, fault.Err.status())
		return
	case r.Header.Get("X-Forwarded-For") != "":
		http.Error(w, "forwarded requests are refused", http.StatusForbidden)
		return
	}
	var body string
	var status int
	if version == "latest" && path == "api/token" {
		body, status = c.openSession(w, r, instance)
	} else {
		body, status = c.readMetadata(r, instance, version, path)
	}
	if fault.Drop || status == 0 {
		panic(http.ErrAbortHandler)
	}
	if status != http.StatusOK {
		http.Error(w, http.StatusText(status), status)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte(body)) // fails if the client has disconnected
}

// metadataVersions are the trees of the metadata service. All of them have the same
// content here.
var metadataVersions = []string{
	"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04",
	"2011-01-01", "2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05", "2015-10-20", "2016-04-19", "2016-06-30",
	"2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24", "2019-10-01", "2020-10-27", "2021-01-03", "2021-03-23",
	"2021-07-15", "2022-09-24", "2024-04-11", "latest",
}

// splitVersion splits the path of a URL into the version of the tree and the rest.
// Like the real service it treats a sequence of slashes as one.
func splitVersion(path string) (version, rest string) {
	var elements []string
	for e := range strings.SplitSeq(path, "/") {
		if e != "" {
			elements = append(elements, e)
		}
	}
	if len(elements) == 0 {
		return "", ""
	}
	rest = strings.Join(elements[1:], "/")
	if rest != "" && strings.HasSuffix(path, "/") {
		rest += "/"
	}
	return elements[0], rest
}

// openSession creates a session and returns its token.
func (c *Cloud) openSession(w http.ResponseWriter, r *http.Request, instance string) (body string, status int) {
	if r.Method != http.MethodPut {
		return "", http.StatusMethodNotAllowed
	}
	seconds, err := strconv.Atoi(r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
	if err != nil || seconds < 1 || seconds > maxSession {
		return "", http.StatusBadRequest
	}
	t := c.begin()
	defer t.end()
	token := t.newID("AQAE")
	c.sessions[token] = session{instance, t.now.Add(time.Duration(seconds) * time.Second)}
	w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", strconv.Itoa(seconds))
	return token, http.StatusOK
}

// readMetadata answers a request for one path. The status is 0 if the instance is
// stopped and so cannot ask.
func (c *Cloud) readMetadata(r *http.Request, instance, version, path string) (body string, status int) {
	t := c.begin()
	defer t.end()
	t.view = t.keyTime("")
	i := t.instance(instance)
	switch {
	case i == nil:
		return "", http.StatusNotFound
	case i.State(t.now) == "stopped":
		return "", 0
	}
	token := r.Header.Get("X-Aws-Ec2-Metadata-Token")
	s, known := c.sessions[token]
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return "", http.StatusMethodNotAllowed
	case token == "" && i.MetadataV1:
	case !known || s.instance != instance || t.now.After(s.ends):
		return "", http.StatusUnauthorized
	}
	body, ok := lines(metadataVersions), version == ""
	if !ok && slices.Contains(metadataVersions, version) {
		body, ok = t.metadata(i, path)
	}
	if !ok {
		return "", http.StatusNotFound
	}
	return body, http.StatusOK
}
