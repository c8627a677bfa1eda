// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
)

// namespace is the XML namespace of the API's current version.
const namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

// answerXML renders the answer to an action: the request ID, and then the fields
// of body, which is a struct with xml tags.
func answerXML(action, requestID string, body any) ([]byte, error) {
	var fields bytes.Buffer
	if err := xml.NewEncoder(&fields).EncodeElement(body, xml.StartElement{Name: xml.Name{Local: "r"}}); err != nil {
		return nil, fmt.Errorf("encode the answer to %s: %w", action, err)
	}
	inner := bytes.TrimSuffix(bytes.TrimPrefix(fields.Bytes(), []byte("<r>")), []byte("</r>"))
	return fmt.Appendf(nil, "%s<%sResponse xmlns=\"%s\"><requestId>%s</requestId>%s</%[2]sResponse>",
		xml.Header, action, namespace, requestID, inner), nil
}

// asAPIError returns err as an error answer; any error but an APIError is an
// internal one.
func asAPIError(err error) *APIError {
	var e *APIError
	if !errors.As(err, &e) {
		e = &APIError{Code: "InternalError", Message: err.Error()}
	}
	return e
}

// errorXML renders an error answer and returns it with its HTTP status.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html#api-error-response
func errorXML(requestID string, err error) ([]byte, int) {
	e := asAPIError(err)
	type oneError struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	body, err := xml.Marshal(struct {
		XMLName   xml.Name   `xml:"Response"`
		Errors    []oneError `xml:"Errors>Error"`
		RequestID string     `xml:"RequestID"`
	}{Errors: []oneError{{e.Code, e.Message}}, RequestID: requestID})
	if err != nil {
		panic(err) // strings always encode
	}
	return append([]byte(xml.Header), body...), e.status()
}
