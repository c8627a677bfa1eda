// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"fmt"
	"net/http"
	"path"
	"strings"
)

// denial is a permission that was taken from a caller.
type denial struct{ caller, action string }

// Deny takes the permission for an action from a caller, as Call.Caller names it.
// The action is a pattern of path.Match. An empty caller means all callers.
func (c *Cloud) Deny(caller, action string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.denied[denial{caller, action}] = true
}

// Allow undoes a Deny with the same arguments.
func (c *Cloud) Allow(caller, action string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.denied, denial{caller, action})
}

// authorize returns EC2's error if the caller has no permission for the action.
func (c *Cloud) authorize(caller, action string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := range c.denied {
		ok, _ := path.Match(d.action, action)
		if ok && (d.caller == "" || d.caller == caller) {
			return errorf("UnauthorizedOperation", "You are not authorized to perform this operation. "+
				"User: %s is not authorized to perform: ec2:%s because no identity-based policy allows the ec2:%[2]s action",
				c.arn(caller), action)
		}
	}
	return nil
}

func (c *Cloud) arn(caller string) string {
	if strings.HasPrefix(caller, kindInstance.prefix) {
		return fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", c.cfg.Account, roleName, caller)
	}
	return fmt.Sprintf("arn:aws:iam::%s:user/%s", c.cfg.Account, caller)
}

// keyPrefix begins the access key IDs of the credentials in metadata. The rest is
// the ID of the instance.
const keyPrefix = "ASIA"

// callerOf returns the caller that the credential of a request names. It does not
// check signatures.
func callerOf(r *http.Request) string {
	credential := r.Form.Get("X-Amz-Credential")
	if _, after, ok := strings.Cut(r.Header.Get("Authorization"), "Credential="); ok {
		credential = after
	}
	key, _, _ := strings.Cut(credential, "/")
	if digits, ok := strings.CutPrefix(key, keyPrefix); ok {
		return kindInstance.prefix + strings.ToLower(digits)
	}
	return key
}
