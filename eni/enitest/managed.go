// SPDX-License-Identifier: Apache-2.0

package enitest

// includeManaged is the parameter of the Describe calls that show managed resources even
// if the account hides them.
type includeManaged struct {
	Include bool `ec2:"IncludeManagedResources"`
}

// hides reports whether an answer leaves out a resource with the given operator, also if
// the call names its ID. The resources of a service that are not managed through an
// operator, see AddForeignENI, are always shown.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyManagedResourceVisibility.html
func (t *tx) hides(in includeManaged, operator string) bool {
	return t.c.state.hideManaged && !in.Include && operator != ""
}

type visibilityIn struct {
	Default string `ec2:"DefaultVisibility"`
}

type wireVisibility struct {
	Default string `xml:"defaultVisibility"`
}

type visibilityOut struct {
	Visibility wireVisibility `xml:"visibility"`
}

func (t *tx) getManagedResourceVisibility(struct{}) (visibilityOut, error) {
	if t.c.state.hideManaged {
		return visibilityOut{wireVisibility{"hidden"}}, nil
	}
	return visibilityOut{wireVisibility{"visible"}}, nil
}

func (t *tx) modifyManagedResourceVisibility(in visibilityIn) (visibilityOut, error) {
	switch in.Default {
	case "hidden", "visible":
		t.c.state.hideManaged = in.Default == "hidden"
	case "":
		return visibilityOut{}, missing("DefaultVisibility")
	default:
		return visibilityOut{}, invalidValue("Value (%s) for parameter DefaultVisibility is invalid. Expected hidden or visible.", in.Default)
	}
	return t.getManagedResourceVisibility(struct{}{})
}
