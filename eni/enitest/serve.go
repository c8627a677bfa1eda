// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"time"
)

// EC2Handler serves the EC2 Query API.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html
func (c *Cloud) EC2Handler() http.Handler {
	table := actions()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			c.fail(w, c.requestID(), errorf("MalformedQueryString", "The query string contains a syntax error"))
			return
		}
		name := r.Form.Get("Action")
		act, ok := table[name]
		if !ok {
			c.fail(w, c.requestID(), errorf("InvalidAction", "The action %s is not valid for this web service.", name))
			return
		}
		c.serve(w, r, name, act)
	})
}

// minSocketDelay is the shortest time to an answer over a socket. The AWS SDK for
// Go closes the body of a request as soon as the answer begins. If net/http has
// not yet read to the end of that body, it treats this as a failed write and
// closes the connection, and the answer is lost (smithy-go v1.28.8, one large
// answer in a hundred on loopback). The real EC2 never answers that fast.
const minSocketDelay = 5 * time.Millisecond

// serve applies the faults to one call, performs it, and writes its answer and its
// entry in the audit log.
func (c *Cloud) serve(w http.ResponseWriter, r *http.Request, name string, act action) {
	caller := callerOf(r)
	fault := c.matchFaults(name, caller)
	fault.Delay += c.callDelay()
	if r.Context().Value(http.ServerContextKey) != nil {
		fault.Delay = max(fault.Delay, minSocketDelay)
	}
	call := Call{At: time.Now(), Caller: caller, Action: name, Parameters: parameters(r.Form), RequestID: c.requestID()}
	var body []byte
	var err error
	switch {
	case !wait(r.Context(), fault):
		call.Code = abandoned
		c.record(call)
		panic(http.ErrAbortHandler)
	case fault.Err != nil:
		err = fault.Err
	default:
		body, err = c.perform(call, act, r.Form)
	}
	if e := (*APIError)(nil); errors.As(err, &e) {
		call.Code = e.Code
	}
	c.record(call)
	switch {
	case fault.Drop:
		panic(http.ErrAbortHandler)
	case err != nil && act.sts:
		e := asAPIError(err)
		write(w, e.status(), call.RequestID, stsErrorXML(call.RequestID, e))
	case err != nil:
		c.fail(w, call.RequestID, err)
	default:
		write(w, http.StatusOK, call.RequestID, body)
	}
}

// perform checks throttling and permissions, does the call unless it is a dry run,
// and renders its answer.
func (c *Cloud) perform(call Call, act action, form url.Values) ([]byte, error) {
	if err := c.admit(call.Action, classOf(call.Action, act, form), form); err != nil {
		return nil, err
	}
	if !act.sts {
		if err := c.authorizeCall(call.Caller, call.Action, form); err != nil {
			return nil, err
		}
	}
	run, err := act.prepare(form)
	if err != nil {
		return nil, err
	}
	if form.Get("DryRun") == "true" {
		return nil, errorf("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	}
	body, err := c.once(call, form, act.class == Mutating, run)
	if act.class == Mutating {
		c.networkChanged(call.Action)
		c.deliver()
	}
	if err != nil {
		return nil, err
	}
	if act.sts {
		return stsXML(call.Action, call.RequestID, body)
	}
	return answerXML(call.Action, call.RequestID, body)
}

// parameters returns the parameters of the action, and DryRun, without the other
// parameters of the request.
func parameters(form url.Values) url.Values {
	p := maps.Clone(form)
	maps.DeleteFunc(p, func(name string, _ []string) bool { return name != "DryRun" && transportParameter(name) })
	return p
}

func (c *Cloud) fail(w http.ResponseWriter, requestID string, err error) {
	body, status := errorXML(requestID, err)
	write(w, status, requestID, body)
}

func write(w http.ResponseWriter, status int, requestID string, body []byte) {
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Header().Set("X-Amzn-Requestid", requestID)
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails if the client has disconnected
}

// requestID returns the next request ID, in the form of a UUID.
func (c *Cloud) requestID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	a, b := scramble(c.requests), scramble(c.requests^1<<63)
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>52, b&0xffffffffffff)
}

// callDelay returns how long each call takes.
func (c *Cloud) callDelay() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delays.Call
}
