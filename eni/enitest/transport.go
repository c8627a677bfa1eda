// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"syscall"
)

// The addresses of the metadata service.
const (
	metadataIPv4 = "169.254.169.254"
	metadataIPv6 = "fd00:ec2::254"
)

// Transport returns a RoundTripper that answers without a socket, in the
// caller's goroutine. It answers requests to 169.254.169.254 and fd00:ec2::254 as
// the metadata service of the given instance, and all others as EC2. If instance
// is empty it refuses connections to the metadata service, as on a machine outside
// of EC2.
func (c *Cloud) Transport(instance string) http.RoundTripper {
	t := transport{ec2: c.EC2Handler()}
	if instance != "" {
		t.metadata = c.IMDSHandler(instance)
	}
	return t
}

type transport struct{ ec2, metadata http.Handler }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	handler := t.ec2
	if host := r.URL.Hostname(); host == metadataIPv4 || host == metadataIPv6 {
		handler = t.metadata
	}
	if handler == nil {
		return nil, &url.Error{Op: r.Method, URL: r.URL.String(), Err: syscall.ECONNREFUSED}
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	in := r.Clone(r.Context())
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), "127.0.0.1:0"
	if in.Body == nil {
		in.Body = http.NoBody
	}
	defer func() { _ = in.Body.Close() }()
	rec := &recorder{header: http.Header{}, status: http.StatusOK}
	if !rec.serve(handler, in) {
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s %s: %w", r.Method, r.URL, io.ErrUnexpectedEOF)
	}
	return &http.Response{
		Status:     fmt.Sprintf("%d %s", rec.status, http.StatusText(rec.status)),
		StatusCode: rec.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: rec.header, Body: io.NopCloser(&rec.body), ContentLength: int64(rec.body.Len()), Request: r,
	}, nil
}

// recorder records the answer of a handler.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// serve runs the handler. It reports false if the handler aborted the connection
// by a panic with http.ErrAbortHandler.
func (r *recorder) serve(h http.Handler, in *http.Request) (answered bool) {
	defer func() {
		p := recover()
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			return
		}
		if p != nil {
			panic(p)
		}
	}()
	h.ServeHTTP(r, in)
	return true
}
