// SPDX-License-Identifier: Apache-2.0

package datapath_test

import "github.com/vpcnet/vpcnet/datapath/internal/datapathtest"

// Short names for the values of package datapathtest.
var (
	layouts     = datapathtest.Layouts()
	testNode    = datapathtest.Node
	testPod     = datapathtest.Pod
	testBranch  = datapathtest.Branch
	branchAddrs = datapathtest.BranchAddrs
	modes       = datapathtest.Modes
	mac         = datapathtest.MAC
	prefixes    = datapathtest.Prefixes
	golden      = datapathtest.Golden
	outsideOf   = datapathtest.OutsideOf
)
