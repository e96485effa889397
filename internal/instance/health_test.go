package instance

import (
	"errors"
	"testing"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// Nobody gets blocks of an instance whose GPUs have failed, however it was decided.
func TestClaimOfFailedGPUs(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := &Service{known: newKnown(), Config: Config{DB: db}}
		for health, free := range map[api.HealthStatus]bool{"": true, api.Healthy: true, api.Warning: true, api.Failure: false} {
			inst := Instance{ID: "i" + string(health), ProjectID: "p", FleetID: "f" + string(health), Name: "i", Status: api.InstanceIdle, Blocks: 1,
				Data: Data{Health: health, Offer: &api.InstanceOffer{}, Provisioning: &api.JobProvisioningData{}}}
			if inst.Available() != free {
				t.Errorf("with the health %q it is available: %v", health, !free)
			}
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				if err := insert(t.Context(), tx, &inst); err != nil {
					return err
				}
				_, err := s.Claim(t.Context(), tx, Claim{InstanceID: inst.ID, JobID: "j" + string(health), Blocks: 1, Of: 1})
				return err
			})
			if err != nil && !errors.Is(err, store.ErrConflict) || (err == nil) != free {
				t.Errorf("with the health %q a claim gives %v", health, err)
			}
		}
	})
}
