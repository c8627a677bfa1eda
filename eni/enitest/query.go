// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"encoding"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decode fills the struct that into points to from the parameters of a Query
// request. Each field names its parameter in an ec2 tag. The elements of a slice
// are numbered from 1 ("Filter.1"), the fields of a struct follow a dot
// ("Tag.1.Key"), and a pointer stays nil if the request does not have its
// parameter. A parameter that no field names is an error, so that no part of a
// request is ignored silently.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html
func decode(form url.Values, into any) error {
	d := decoder{form: form, known: map[string]bool{}}
	if err := d.value("", reflect.ValueOf(into).Elem()); err != nil {
		return err
	}
	var unknown []string
	for name := range form {
		if !d.known[name] && !transportParameter(name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return errorf("UnknownParameter", "The parameter %s is not recognized", unknown[0])
	}
	return nil
}

// transportParameter reports whether a parameter belongs to the request and not
// to the action.
func transportParameter(name string) bool {
	switch name {
	case "Action", "Version", "AWSAccessKeyId", "Signature", "SignatureVersion", "SignatureMethod",
		"Timestamp", "Expires", "SecurityToken", "DryRun":
		return true
	}
	return strings.HasPrefix(name, "X-Amz-")
}

type decoder struct {
	form  url.Values
	known map[string]bool
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func (d *decoder) value(name string, v reflect.Value) error {
	switch {
	case v.Type() == reflect.TypeFor[ignored]():
		d.ignore(name)
		return nil
	case v.Kind() == reflect.Pointer:
		if !d.present(name) {
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(name, v.Elem())
	case v.Kind() == reflect.Slice:
		return d.list(name, v)
	case v.Kind() == reflect.Struct && !v.Addr().Type().Implements(textUnmarshaler):
		return d.fields(name, v)
	}
	text, ok := d.form[name]
	if !ok {
		return nil
	}
	d.known[name] = true
	if !scalar(text[0], v) {
		return invalidValue("Value (%s) for parameter %s is invalid.", text[0], name)
	}
	return nil
}

// ignored is a parameter that is accepted and has no effect, such as the disks of
// an instance.
type ignored struct{}

func (d *decoder) ignore(name string) {
	for key := range d.form {
		if key == name || strings.HasPrefix(key, name+".") {
			d.known[key] = true
		}
	}
}

// fields decodes a struct. The fields of an embedded struct are named as fields of
// the outer one.
func (d *decoder) fields(name string, v reflect.Value) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		inner := name
		if !field.Anonymous {
			inner = join(name, field.Tag.Get("ec2"))
		}
		if err := d.value(inner, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) list(name string, v reflect.Value) error {
	for _, n := range d.indexes(name) {
		item := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(join(name, strconv.Itoa(n)), item); err != nil {
			return err
		}
		v.Set(reflect.Append(v, item))
	}
	return nil
}

// indexes returns the numbers that follow name in the parameters, in order.
func (d *decoder) indexes(name string) []int {
	var found []int
	for key := range d.form {
		rest, ok := strings.CutPrefix(key, name+".")
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(digits); err == nil && n >= 0 && !slices.Contains(found, n) {
			found = append(found, n)
		}
	}
	slices.Sort(found)
	return found
}

func (d *decoder) present(name string) bool {
	for key := range d.form {
		if key == name || strings.HasPrefix(key, name+".") {
			return true
		}
	}
	return false
}

func scalar(text string, v reflect.Value) bool {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text)) == nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return false
		}
		v.SetInt(n)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return false
		}
		v.SetBool(b)
	default:
		return false
	}
	return true
}

func join(outer, inner string) string {
	if outer == "" {
		return inner
	}
	return outer + "." + inner
}
