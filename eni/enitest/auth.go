// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// denial is a permission that was taken from a caller.
type denial struct{ caller, action string }

// Deny takes the permission for an action from a caller, as Call.Caller names it.
// The action is a pattern of path.Match. An empty caller means all callers.
// Without the permission for CreateTags a caller cannot create resources with tags
// either. Deny panics if there is no such action.
func (c *Cloud) Deny(caller, action string) {
	if err := checkActionPattern(action); err != nil {
		panic(fmt.Sprintf("enitest: deny: %v", err))
	}
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

// checkActionPattern returns an error if the pattern matches no action.
func checkActionPattern(pattern string) error {
	for name := range actions() {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return fmt.Errorf("action %q: %w", pattern, err)
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("%q matches no action of this API", pattern)
}

// authorizeCall returns EC2's error if the caller lacks the permission for the
// action, or for the tags that the action gives to the resources it creates.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/supported-iam-actions-tagging.html
func (c *Cloud) authorizeCall(caller, action string, form url.Values) error {
	if err := c.authorize(caller, action); err != nil {
		return err
	}
	for name := range form {
		if strings.HasPrefix(name, "TagSpecification.") {
			return c.authorize(caller, "CreateTags")
		}
	}
	return nil
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
	aws := (&tx{c: c}).partition().name
	if strings.HasPrefix(caller, kindInstance.prefix) {
		return fmt.Sprintf("arn:%s:sts::%s:assumed-role/%s/%s", aws, c.cfg.Account, roleName, caller)
	}
	return fmt.Sprintf("arn:%s:iam::%s:user/%s", aws, c.cfg.Account, caller)
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
