// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// stsNamespace is the XML namespace of the Security Token Service.
const stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

type callerIdentity struct {
	ARN     string `xml:"Arn"`
	UserID  string `xml:"UserId"`
	Account string `xml:"Account"`
}

// getCallerIdentity is the action of the Security Token Service that clients call
// to learn their account. It needs no permission.
// https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
func (t *tx) getCallerIdentity(struct{}) (callerIdentity, error) {
	id := "AIDA" + strings.TrimPrefix(t.caller, "AKIA")
	if strings.HasPrefix(t.caller, kindInstance.prefix) {
		id = roleID + ":" + t.caller
	}
	return callerIdentity{t.c.arn(t.caller), id, t.c.cfg.Account}, nil
}

// stsXML renders an answer in the format of the Security Token Service.
func stsXML(action, requestID string, body any) ([]byte, error) {
	var fields strings.Builder
	start := xml.StartElement{Name: xml.Name{Local: action + "Result"}}
	if err := xml.NewEncoder(&fields).EncodeElement(body, start); err != nil {
		return nil, fmt.Errorf("encode the answer to %s: %w", action, err)
	}
	return fmt.Appendf(nil, "%s<%sResponse xmlns=\"%s\">%s<ResponseMetadata><RequestId>%s</RequestId></ResponseMetadata></%[2]sResponse>",
		xml.Header, action, stsNamespace, fields.String(), requestID), nil
}

// stsErrorXML renders an error answer in the format of the Security Token Service.
func stsErrorXML(requestID string, e *APIError) []byte {
	body, err := xml.Marshal(struct {
		XMLName   xml.Name `xml:"ErrorResponse"`
		Code      string   `xml:"Error>Code"`
		Message   string   `xml:"Error>Message"`
		RequestID string   `xml:"RequestId"`
	}{Code: e.Code, Message: e.Message, RequestID: requestID})
	if err != nil {
		panic(err) // strings always encode
	}
	return append([]byte(xml.Header), body...)
}
