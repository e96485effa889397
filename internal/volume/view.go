package volume

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"time"

	"dstack/internal/api"
	"dstack/internal/store"
)

// hoursPerMonth is how the wire's prices per month are meant.
const hoursPerMonth = 30 * 24

func (s *Service) view(ctx context.Context, v Volume) (api.Volume, error) {
	list, err := s.views(ctx, []Volume{v})
	if err != nil {
		return api.Volume{}, err
	}
	return list[0], nil
}

// views are volumes as the wire has them.
func (s *Service) views(ctx context.Context, list []Volume) ([]api.Volume, error) {
	out := make([]api.Volume, 0, len(list))
	users, projects := map[string]string{}, map[string]string{}
	attachments, err := attachments(ctx, s.DB.Read(), list)
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		if users[v.UserID] == "" {
			u, err := s.Users.ByID(ctx, s.DB.Read(), v.UserID)
			if err != nil {
				return nil, err
			}
			users[v.UserID] = u.Name
		}
		if projects[v.ProjectID] == "" {
			p, err := s.Projects.ByID(ctx, s.DB.Read(), v.ProjectID)
			if err != nil {
				return nil, err
			}
			projects[v.ProjectID] = p.Name
		}
		one := view(time.Now(), v)
		one.User, one.ProjectName = users[v.UserID], projects[v.ProjectID]
		if a := attachments[v.ID]; a != nil {
			one.Attachments = a
		}
		out = append(out, one)
	}
	return out, nil
}

// view is a volume as the wire has it, without names and attachments.
func view(now time.Time, v Volume) api.Volume {
	out := api.Volume{ID: v.ID, Name: v.Name, Configuration: v.Data.Configuration, External: v.External(), CreatedAt: api.At(v.CreatedAt),
		LastProcessedAt: api.At(v.Data.ProcessedAt), Status: v.Status, Deleted: v.Deleted, Attachments: []api.VolumeAttachment{}, Cost: cost(now, v)}
	if text := cmp.Or(v.Damage, v.Data.Message); text != "" {
		out.StatusMessage = &text
	}
	if v.Deleted {
		out.DeletedAt = api.OptTime(v.Data.EndedAt)
	}
	if id := v.externalID(); id != "" {
		out.VolumeID = &id
	}
	if disk := v.Data.Disk; disk != nil {
		price := disk.Price * hoursPerMonth
		out.VolumeID = &disk.Ref.ID
		out.ProvisioningData = &api.VolumeProvisioningData{Backend: &v.Backend, VolumeID: disk.Ref.ID, SizeGB: disk.SizeGiB, Price: &price, Attachable: true, Detachable: true}
		if disk.Zone != "" {
			out.ProvisioningData.AvailabilityZone = &disk.Zone
		}
	}
	return out
}

// cost is what a volume has cost so far, in US dollars.
func cost(now time.Time, v Volume) float64 {
	disk := v.Data.Disk
	if disk == nil || v.External() || v.CreatedAt.IsZero() { // of one without a time it is not known
		return 0
	}
	end := now
	if !v.Data.EndedAt.IsZero() {
		end = v.Data.EndedAt
	}
	return disk.Price * end.Sub(v.CreatedAt).Hours()
}

// attachments are the instances that have the volumes, by volume.
func attachments(ctx context.Context, q store.Querier, list []Volume) (map[string][]api.VolumeAttachment, error) {
	if len(list) == 0 {
		return nil, nil
	}
	args := make([]any, len(list))
	for i, v := range list {
		args[i] = v.ID
	}
	out := map[string][]api.VolumeAttachment{}
	rows, err := q.QueryContext(ctx, fmt.Sprintf(selectAttachments, store.Marks(1, len(args))), args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id, device, fleet string
		var a api.VolumeAttachment
		if err := store.DespiteDamage(store.Scan(rows, &id, &device, &a.Instance.Name, &a.Instance.InstanceNum, &fleet)); err != nil {
			return err
		}
		a.Instance.FleetName = &fleet
		if device != "" {
			a.AttachmentData = &api.VolumeAttachmentData{DeviceName: &device}
		}
		out[id] = append(out[id], a)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list who has volumes: %w", err)
	}
	return out, nil
}
