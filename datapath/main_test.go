// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"testing"

	"github.com/vpcnet/vpcnet/internal/isolate"
)

func TestMain(m *testing.M) { isolate.Test(m) }
