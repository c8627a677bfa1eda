// SPDX-License-Identifier: Apache-2.0

package kubepolicy_test

import (
	"testing"

	"github.com/vpcnet/vpcnet/internal/isolate/isolatetest"
)

func TestMain(m *testing.M) { isolatetest.Test(m) }
