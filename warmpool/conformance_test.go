// SPDX-License-Identifier: Apache-2.0

package warmpool_test

import (
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/warmpooltest"
)

var conforming = map[string]warmpool.Policy{
	"Band":                 warmpool.Band{},
	"Band wide":            warmpool.Band{Low: 5, High: 40, Batch: 8, HoldDown: time.Minute, Warmup: 30},
	"Band on demand":       warmpool.Band{Low: -1, Batch: 1},
	"AWS ENI":              warmpool.AWS{WarmENITarget: 1, WarmPrefixTarget: 1},
	"AWS zero":             warmpool.AWS{},
	"AWS IP":               warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10},
	"AWS cooling is free":  warmpool.AWS{WarmIPTarget: 2, Quirks: warmpool.Quirks{CoolingIsFree: true}},
	"Cilium":               warmpool.Cilium{},
	"Cilium release":       warmpool.Cilium{Release: true, MinAllocate: 10, MaxAboveWatermark: 6},
	"AzureV1":              warmpool.AzureV1{},
	"AzureV2":              warmpool.AzureV2{},
	"Terway":               warmpool.Terway{MinIdle: 5, MaxIdle: 10, WarmUp: 12},
	"Terway reclaim":       warmpool.Terway{MaxIdle: 10, ReclaimAfter: time.Hour},
	"ResourceController":   warmpool.ResourceController{},
	"hold-down":            warmpool.HoldDown{Policy: warmpool.AWS{WarmIPTarget: 2}, For: time.Minute},
	"floor":                warmpool.Bounds{Policy: warmpool.Band{}, Floor: 20},
	"exhaustion":           warmpool.Exhaustion{Policy: warmpool.AzureV1{}, Below: 10},
	"schedule":             warmpool.Schedule{Policy: warmpool.Band{}},
	"predictive":           warmpool.Predictive{Policy: warmpool.Band{}},
	"predictive and bound": warmpool.Bounds{Policy: warmpool.Predictive{Policy: warmpool.AWS{WarmIPTarget: 1}, Max: 8}, Floor: 4},
	"shadow":               warmpool.Shadow{Policy: warmpool.Band{}, Other: warmpool.AWS{WarmIPTarget: 2}},
}

// TestConformance checks each policy alone and wrapped by AgentPolicy.
func TestConformance(t *testing.T) {
	for name, p := range conforming {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			warmpooltest.Run(t, p)
		})
		t.Run(name+" in the agent", func(t *testing.T) {
			t.Parallel()
			warmpooltest.Run(t, warmpool.AgentPolicy(p))
		})
	}
}

func FuzzBand(f *testing.F) { warmpooltest.Fuzz(f, warmpool.Band{}) }

func FuzzAWS(f *testing.F) { warmpooltest.Fuzz(f, warmpool.AWS{WarmIPTarget: 3, MinimumIPTarget: 8}) }

func FuzzServeWaiting(f *testing.F) {
	warmpooltest.Fuzz(f, warmpool.ServeWaiting{Policy: warmpool.AWS{WarmIPTarget: 2, MinimumIPTarget: 4}})
}

func FuzzBounds(f *testing.F) {
	warmpooltest.Fuzz(f, warmpool.Bounds{Policy: warmpool.HoldDown{Policy: warmpool.Cilium{Release: true}, For: time.Minute}, Floor: 6})
}
