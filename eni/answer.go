// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// errIncomplete is the error of a call whose answer lacks what the call must return.
// EC2 may have executed the call.
var errIncomplete = errors.New("the answer of EC2 is incomplete")

// checkAnswers makes the SDK refuse every answer that EC2 did not write, or that did
// not arrive as a whole. The SDK itself reads the page of a proxy as an empty list, or
// as the success of a call that returns nothing.
func checkAnswers(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("CheckAnswer", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleDeserialize(ctx, in)
		answer, ok := out.RawResponse.(*smithyhttp.Response)
		if err != nil || !ok {
			return out, metadata, err
		}
		body, err := io.ReadAll(answer.Body)
		if err = errors.Join(err, answer.Body.Close()); err != nil {
			return out, metadata, fmt.Errorf("read the answer: %w", err)
		}
		answer.Body = io.NopCloser(bytes.NewReader(body))
		return out, metadata, checkAnswer(awsmiddleware.GetOperationName(ctx), answer, body)
	}), middleware.After)
}

// checkAnswer returns an error if the body is not an answer of EC2 to the action.
func checkAnswer(action string, answer *smithyhttp.Response, body []byte) error {
	if answer.StatusCode < 200 || answer.StatusCode >= 300 {
		if bytes.Contains(body, []byte("<Code>")) {
			return nil
		}
	} else if bytes.Contains(body, []byte("<"+action+"Response")) {
		switch {
		case !bytes.HasSuffix(bytes.TrimSpace(body), []byte("</"+action+"Response>")):
			return fmt.Errorf("%w: it ends after %d bytes", errIncomplete, len(body))
		case bytes.Contains(body, []byte("<return>false</return>")):
			return errors.New("EC2 answers that the call was not successful")
		}
		return nil
	}
	return fmt.Errorf("answer with status %d and content type %q is not one of EC2: a proxy may have written it",
		answer.StatusCode, answer.Header.Get("Content-Type"))
}
