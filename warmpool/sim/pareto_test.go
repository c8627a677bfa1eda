// SPDX-License-Identifier: Apache-2.0

package sim_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/warmpool"
	"github.com/vpcnet/vpcnet/warmpool/sim"
)

// rival is a preset as it is commonly set, and the Band that is at least as
// good in p99 wait, calls and idle address-hours, and better in one.
type rival struct {
	name   string
	policy warmpool.Policy
	band   warmpool.Band
	// unbeaten are the traces on which that does not hold.
	unbeaten string
}

var rivals = []rival{
	{name: "WARM_ENI_TARGET=1", policy: warmpool.AWS{WarmENITarget: 1}, band: warmpool.Band{Low: 5, High: 17, Batch: 8}, unbeaten: ""},
	{name: "WARM_IP_TARGET=2", policy: warmpool.AWS{WarmIPTarget: 2}, band: warmpool.Band{High: 2, Batch: 1, HoldDown: 10 * time.Second}, unbeaten: "rollout"},
	{name: "WARM_IP_TARGET=5, MINIMUM_IP_TARGET=10", policy: warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, band: warmpool.Band{High: 5, HoldDown: 10 * time.Second}, unbeaten: ""},
	{name: "Cilium", policy: warmpool.Cilium{}, band: warmpool.Band{Low: 2, High: 6, HoldDown: 24 * time.Hour}, unbeaten: ""},
	{name: "Cilium, release", policy: warmpool.Cilium{Release: true}, band: warmpool.Band{}, unbeaten: ""},
	{name: "Azure v1", policy: warmpool.AzureV1{}, band: warmpool.Band{High: 7, Batch: 2, HoldDown: 24 * time.Hour}, unbeaten: ""},
	{name: "Azure v2", policy: warmpool.AzureV2{}, band: warmpool.Band{}, unbeaten: ""},
	{name: "Terway 0 to 5", policy: warmpool.Terway{MaxIdle: 5}, band: warmpool.Band{}, unbeaten: "churn rollout cron diurnal"},
	{name: "Terway 5 to 10", policy: warmpool.Terway{MinIdle: 5, MaxIdle: 10}, band: warmpool.Band{HoldDown: time.Minute}, unbeaten: ""},
	{name: "resource controller", policy: warmpool.ResourceController{}, band: warmpool.Band{Low: 2, High: 2, Batch: 1, HoldDown: 10 * time.Second}, unbeaten: ""},
}

// TestBandAgainstPresets holds what docs/warm-pool.md says: nothing beats the
// default Band, and for each preset there is one Band that beats it on all four
// traces, but where the table names the trace.
func TestBandAgainstPresets(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates 84 days")
	}
	for _, shape := range []string{"churn", "rollout", "cron", "diurnal"} {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			tr := generate(t, sim.Workload{Shape: shape})
			standard := run(t, sim.Config{Policy: warmpool.Band{}}, tr)
			for _, r := range rivals {
				preset := run(t, sim.Config{Policy: r.policy}, tr)
				if preset.Dominates(standard) {
					t.Errorf("%s beats the default Band: %s against %s", r.name, figures(preset), figures(standard))
				}
				band := run(t, sim.Config{Policy: r.band}, tr)
				if got, want := band.Dominates(preset), !slices.Contains(strings.Fields(r.unbeaten), shape); got != want {
					t.Errorf("%+v beats %s: %v, want %v: %s against %s", r.band, r.name, got, want, figures(band), figures(preset))
				}
			}
		})
	}
}

func figures(r sim.Report) string {
	return fmt.Sprintf("%.2f s, %d calls, %.0f idle", r.WaitP99Seconds, r.EC2CallsTotal, r.IdleAddressHours)
}
