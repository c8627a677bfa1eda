// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"encoding/base64"
	"path"
	"slices"
	"sort"
	"strings"
)

// resource tells the Describe calls of a type how to identify its values, read
// their tags, filter them and page through them.
type resource[T any] struct {
	kind kind
	// idsParam is EC2's name of the parameter with IDs, for error messages.
	idsParam string
	id       func(T) string
	tags     func(T) map[string]string
	// maxResults is the largest page; 0 means maxPage. minResults is the smallest page; 0
	// means minPage.
	maxResults, minResults int
	// filters return the values that a filter is compared with, by filter name.
	filters map[string]func(T) []string
}

// A page holds between minPage and maxPage entries, and a filter has at most
// maxFilterValues values.
const (
	minPage         = 5
	maxPage         = 1000
	maxFilterValues = 200
)

// find returns the page that the query asks for, out of all, which must be sorted
// by ID, and the token of the next page.
func (r resource[T]) find(all []T, ids []string, q query) (page []T, next string, err error) {
	if err := r.check(ids, q); err != nil {
		return nil, "", err
	}
	after, err := decodeToken(q.NextToken)
	if err != nil {
		return nil, "", err
	}
	missing := slices.Clone(ids)
	for _, v := range all {
		id := r.id(v)
		missing = slices.DeleteFunc(missing, func(m string) bool { return m == id })
		if len(ids) > 0 && !slices.Contains(ids, id) {
			continue
		}
		if r.matches(v, q.Filters) {
			page = append(page, v)
		}
	}
	if len(missing) > 0 {
		return nil, "", r.kind.unknown(missing...)
	}
	from := 0
	if after != "" {
		from = sort.Search(len(page), func(i int) bool { return r.id(page[i]) > after })
	}
	page = page[from:]
	size := maxPage
	if q.MaxResults != nil {
		size = *q.MaxResults
	}
	if len(page) > size {
		page = page[:size]
		next = base64.StdEncoding.EncodeToString([]byte("v1:" + r.id(page[size-1])))
	}
	return page, next, nil
}

func decodeToken(token string) (after string, err error) {
	text, err := base64.StdEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(text), "v1:")
	if token != "" && (err != nil || !ok) {
		return "", errorf("InvalidNextToken", "The token '%s' is invalid", token)
	}
	return after, nil
}

func (r resource[T]) check(ids []string, q query) error {
	if q.MaxResults != nil {
		n, least, most := *q.MaxResults, cmp.Or(r.minResults, minPage), cmp.Or(r.maxResults, maxPage)
		if n < least || n > most {
			return invalidValue("Value ( %d ) for parameter maxResults is invalid. Expecting a value between %d and %d.",
				n, least, most)
		}
		if len(ids) > 0 {
			return errorf("InvalidParameterCombination",
				"The parameter %s cannot be used with the parameter maxResults", r.idsParam)
		}
	}
	for _, f := range q.Filters {
		if len(f.Values) > maxFilterValues {
			return errorf("FilterLimitExceeded", "The maximum number of filter values specified on a single call is %d",
				maxFilterValues)
		}
		if _, ok := r.filters[f.Name]; ok {
			continue
		}
		if r.tags == nil || f.Name != "tag-key" && !strings.HasPrefix(f.Name, "tag:") {
			return invalidValue("The filter '%s' is invalid", f.Name)
		}
	}
	return nil
}

// matches reports whether v matches all filters. It matches a filter if one of
// the filter's patterns matches one of its values.
func (r resource[T]) matches(v T, filters []filterParam) bool {
	for _, f := range filters {
		var have []string
		if values, ok := r.filters[f.Name]; ok {
			have = values(v)
		} else if key, ok := strings.CutPrefix(f.Name, "tag:"); ok {
			if value, ok := r.tags(v)[key]; ok {
				have = []string{value}
			}
		} else {
			for key := range r.tags(v) {
				have = append(have, key)
			}
		}
		if !slices.ContainsFunc(f.Values, func(pattern string) bool {
			return slices.ContainsFunc(have, func(value string) bool { return wildcard(pattern, value) })
		}) {
			return false
		}
	}
	return true
}

// wildcard reports whether value matches EC2's filter pattern: * matches any
// characters, ? matches one, and a backslash escapes either.
func wildcard(pattern, value string) bool {
	if !strings.ContainsAny(pattern, `*?\`) {
		return pattern == value
	}
	// path.Match gives / and [ a special meaning, which EC2's patterns do not.
	p := strings.NewReplacer("/", "\x00", "[", `\[`).Replace(pattern)
	ok, _ := path.Match(p, strings.ReplaceAll(value, "/", "\x00"))
	return ok
}
