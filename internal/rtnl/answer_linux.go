// SPDX-License-Identifier: Apache-2.0

package rtnl

import "errors"

// Answer is the kernel's answer to one request of a batch.
type Answer struct {
	// Err is the kernel's error; nil is success.
	Err error
	// body is the object that was asked for, without the message's header.
	body []byte
}

// errNoObject means that a request succeeded that does not ask for an object.
var errNoObject = errors.New("the answer has no object")

// Found reports whether the answer has the object that was asked for.
func (a Answer) Found() bool { return a.Err == nil && a.body != nil }

// Link returns the link that was asked for, with its settings, or the kernel's error.
func (a Answer) Link() (Link, error) { return decodeAnswer(a, decodeLink) }

// Route returns the route that was asked for, or the kernel's error. It does not know
// the name of the route's link.
func (a Answer) Route() (Route, error) {
	return decodeAnswer(a, func(body []byte) (Route, error) { return decodeRoute(body, nil) })
}

func decodeAnswer[T any](a Answer, decode func([]byte) (T, error)) (T, error) {
	var none T
	switch {
	case a.Err != nil:
		return none, a.Err
	case a.body == nil:
		return none, errNoObject
	}
	return decode(a.body)
}
