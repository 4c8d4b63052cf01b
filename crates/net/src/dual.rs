//! One value, or one per family, in preference order.

use crate::IpFamily;

/// One `T` for one family, or one for each, the primary family first.
///
/// Never empty and never two of one family, by construction: the secondary's family is not stored, it is the
/// primary's [`other`](IpFamily::other).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DualStack<T> {
    family: IpFamily,
    primary: T,
    secondary: Option<T>,
}

impl<T> DualStack<T> {
    /// A value for one family only.
    pub const fn single(family: IpFamily, value: T) -> Self {
        Self { family, primary: value, secondary: None }
    }

    /// A value for each family; `primary` belongs to `family`.
    pub const fn dual(family: IpFamily, primary: T, secondary: T) -> Self {
        Self { family, primary, secondary: Some(secondary) }
    }

    /// Builds from values in preference order; `None` when there are none, more than two, or two of one family.
    pub fn from_ordered(values: impl IntoIterator<Item = (IpFamily, T)>) -> Option<Self> {
        let mut values = values.into_iter();
        let (family, primary) = values.next()?;
        let secondary = match values.next() {
            None => None,
            Some((second, value)) if second == family.other() => Some(value),
            Some(_) => return None,
        };
        values.next().is_none().then_some(Self { family, primary, secondary })
    }

    /// The family that comes first.
    pub const fn primary_family(&self) -> IpFamily {
        self.family
    }

    /// The first value.
    pub const fn primary(&self) -> &T {
        &self.primary
    }

    /// The second value, if there is one.
    pub const fn secondary(&self) -> Option<&T> {
        self.secondary.as_ref()
    }

    /// The value for `family`, if there is one.
    pub fn get(&self, family: IpFamily) -> Option<&T> {
        if family == self.family { Some(&self.primary) } else { self.secondary.as_ref() }
    }

    /// Whether both families are there.
    pub const fn is_dual(&self) -> bool {
        self.secondary.is_some()
    }

    /// The families, primary first.
    pub fn families(&self) -> impl Iterator<Item = IpFamily> + use<T> {
        std::iter::once(self.family).chain(self.secondary.is_some().then_some(self.family.other()))
    }

    /// Family and value pairs, primary first.
    pub fn iter(&self) -> impl Iterator<Item = (IpFamily, &T)> {
        let second = self.secondary.as_ref().map(|value| (self.family.other(), value));
        std::iter::once((self.family, &self.primary)).chain(second)
    }

    /// Family and value pairs to change, primary first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (IpFamily, &mut T)> {
        let second = self.secondary.as_mut().map(|value| (self.family.other(), value));
        std::iter::once((self.family, &mut self.primary)).chain(second)
    }

    /// The same shape with every value mapped.
    pub fn map<U>(&self, mut f: impl FnMut(IpFamily, &T) -> U) -> DualStack<U> {
        DualStack {
            family: self.family,
            primary: f(self.family, &self.primary),
            secondary: self.secondary.as_ref().map(|value| f(self.family.other(), value)),
        }
    }
}
