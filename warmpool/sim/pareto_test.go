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

// rival is a preset with common settings, and a Band that dominates it: the Band is
// at least as good in p99 wait, calls and idle address-hours, and better in one.
type rival struct {
	name   string
	policy warmpool.Policy
	band   warmpool.Band
	// except names the traces on which the Band does not dominate the preset.
	except string
}

var rivals = []rival{
	{"WARM_ENI_TARGET=1", warmpool.AWS{WarmENITarget: 1}, warmpool.Band{Low: 5, High: 17, Batch: 8}, ""},
	{"WARM_IP_TARGET=2", warmpool.AWS{WarmIPTarget: 2}, warmpool.Band{High: 2, Batch: 1, HoldDown: 10 * time.Second}, "rollout"},
	{"WARM_IP_TARGET=5, MINIMUM_IP_TARGET=10", warmpool.AWS{WarmIPTarget: 5, MinimumIPTarget: 10}, warmpool.Band{High: 5, HoldDown: 10 * time.Second}, ""},
	{"Cilium", warmpool.Cilium{}, warmpool.Band{Low: 2, High: 6, HoldDown: 24 * time.Hour}, ""},
	{"Cilium, release", warmpool.Cilium{Release: true}, warmpool.Band{}, ""},
	{"Azure v1", warmpool.AzureV1{}, warmpool.Band{High: 7, Batch: 2, HoldDown: 24 * time.Hour}, ""},
	{"Azure v2", warmpool.AzureV2{}, warmpool.Band{}, ""},
	{"Terway 0 to 5", warmpool.Terway{MaxIdle: 5}, warmpool.Band{}, "churn rollout cron diurnal"},
	{"Terway 5 to 10", warmpool.Terway{MinIdle: 5, MaxIdle: 10}, warmpool.Band{HoldDown: time.Minute}, ""},
	{"resource controller", warmpool.ResourceController{}, warmpool.Band{Low: 2, High: 2, Batch: 1, HoldDown: 10 * time.Second}, ""},
}

// TestBandAgainstPresets checks the claims of docs/warm-pool.md: no preset dominates
// the default Band, and for each preset there is one Band that dominates it on all
// four traces, except on the traces that the table names.
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
					t.Errorf("%s dominates the default Band: %s against %s", r.name, figures(preset), figures(standard))
				}
				band := run(t, sim.Config{Policy: r.band}, tr)
				if got, want := band.Dominates(preset), !slices.Contains(strings.Fields(r.except), shape); got != want {
					t.Errorf("%+v dominates %s: %v, want %v: %s against %s", r.band, r.name, got, want, figures(band), figures(preset))
				}
			}
		})
	}
}

func figures(r sim.Report) string {
	return fmt.Sprintf("%.2f s, %d calls, %.0f idle", r.WaitP99Seconds, r.EC2CallsTotal, r.IdleAddressHours)
}
