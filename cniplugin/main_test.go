// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"testing"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

func TestMain(m *testing.M) { isolate.Test(m) }
