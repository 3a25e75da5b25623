use super::*;
use half::f16;

struct Exp<'a>(&'a [f32; LANES]);

impl Kernel for Exp<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<L: Lanes>(self) -> [f32; LANES] {
        exp(L::load(self.0)).to_array()
    }
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    for path in KernelPath::available() {
        let mut worst = 0f64;
        for i in 0..40_000 {
            let x: [f32; LANES] =
                std::array::from_fn(|lane| 88.0 - (i * LANES + lane) as f32 * 175.0 / 640_000.0);
            for (got, x) in dispatch(Family::of(path), Exp(&x)).iter().zip(x) {
                let want = f64::from(x).exp();
                worst = worst.max((f64::from(*got) / want - 1.0).abs());
            }
        }
        assert!(worst < 2.4e-7, "{path}: relative error {worst}");
        let edges = [0.0, -0.0, -87.5, -1e30, f32::NEG_INFINITY, f32::NAN];
        let mut x = [0.0; LANES];
        x[..6].copy_from_slice(&edges);
        let got = dispatch(Family::of(path), Exp(&x));
        assert_eq!(&got[..5], [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert!(got[5].is_nan(), "{path}: NaN must stay one");
    }
}

struct Exp2<'a>(&'a [f32; LANES]);

impl Kernel for Exp2<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<L: Lanes>(self) -> [f32; LANES] {
        exp2(L::load(self.0)).to_array()
    }
}

#[test]
fn exp2_is_within_two_units_in_the_last_place_where_it_is_promised() {
    for path in KernelPath::available() {
        let mut worst = 0f64;
        for i in 0..40_000 {
            let x: [f32; LANES] = std::array::from_fn(|lane| (i * LANES + lane) as f32 * -126.0 / 640_000.0);
            for (got, x) in dispatch(Family::of(path), Exp2(&x)).iter().zip(x) {
                worst = worst.max((f64::from(*got) / f64::from(x).exp2() - 1.0).abs());
            }
        }
        assert!(worst < 2.4e-7, "{path}: relative error {worst}");
        let mut x = [0.0; LANES];
        x[..4].copy_from_slice(&[-0.0, -1.0, -126.0, 0.0]);
        let got = dispatch(Family::of(path), Exp2(&x));
        assert_eq!(&got[..4], [1.0, 0.5, f32::MIN_POSITIVE, 1.0]);
    }
}

struct Halves<'a>(&'a [u16; LANES]);

impl Kernel for Halves<'_> {
    type Output = ([f32; LANES], [u16; LANES]);

    #[inline(always)]
    fn run<L: Lanes>(self) -> Self::Output {
        let wide = L::load_f16(self.0);
        let mut back = [0; LANES];
        wide.store_f16(&mut back);
        (wide.to_array(), back)
    }
}

#[test]
fn every_half_is_widened_exactly_and_comes_back() {
    for path in KernelPath::available() {
        for first in (0..=u16::MAX).step_by(LANES) {
            let halves: [u16; LANES] = std::array::from_fn(|lane| first + lane as u16);
            let (wide, back) = dispatch(Family::of(path), Halves(&halves));
            for ((half, wide), back) in halves.into_iter().zip(wide).zip(back) {
                let want = f16::from_bits(half);
                assert!(
                    wide == want.to_f32() || wide.is_nan() && want.is_nan(),
                    "{path}: {half:#x} is {wide}"
                );
                assert!(back == half || f16::from_bits(back).is_nan() && want.is_nan(), "{path}: {half:#x}");
            }
        }
    }
}

struct Pieces<'a>(&'a [f32; LANES], usize);

impl Kernel for Pieces<'_> {
    type Output = ([f32; LANES], f32, f32, u16);

    #[inline(always)]
    fn run<L: Lanes>(self) -> Self::Output {
        let x = L::load(self.0);
        let first = x.first(self.1, L::splat(-1.0));
        (first.to_array(), x.sum(), x.largest(), first.equal(x))
    }
}

#[test]
fn lanes_are_in_order() {
    let x: [f32; LANES] = std::array::from_fn(|i| i as f32);
    for path in KernelPath::available() {
        for n in 0..=LANES {
            let (first, sum, largest, equal) = dispatch(Family::of(path), Pieces(&x, n));
            let want: [f32; LANES] = std::array::from_fn(|i| if i < n { i as f32 } else { -1.0 });
            assert_eq!((first, sum, largest), (want, 120.0, 15.0), "{path}, {n} lanes");
            assert_eq!(u32::from(equal), (1 << n) - 1, "{path}, {n} lanes");
        }
    }
}
