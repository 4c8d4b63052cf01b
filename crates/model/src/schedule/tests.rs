use super::*;

#[test]
fn errors_are_those_of_kubernetes() {
    for (text, error) in [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
        ("@bla", "unrecognized descriptor: @bla"),
        ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
    ] {
        assert_eq!(Schedule::parse(text).unwrap_err().to_string(), error, "{text:?}");
    }
}

#[test]
fn fields_hold_what_they_say() {
    let Ok(Schedule::At(times)) = Schedule::parse("5,10-20/5 */6 1 jan-mar sun") else {
        panic!("five fields")
    };
    let minutes: Vec<u8> = (0..60).filter(|minute| times.minute(*minute)).collect();
    assert_eq!(minutes, [5, 10, 15, 20]);
    assert_eq!((0..24).filter(|hour| times.hour(*hour)).collect::<Vec<_>>(), [0, 6, 12, 18]);
    assert_eq!((1..13).filter(|month| times.month(*month)).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(times.day(1, 3) && times.day(9, 0) && !times.day(9, 3), "a day of either kind is enough");
    let Ok(Schedule::At(weekdays)) = Schedule::parse("0 0 * * mon") else { panic!("five fields") };
    assert!(weekdays.day(9, 1) && !weekdays.day(9, 2), "any day of the month says nothing");
    assert_eq!(Schedule::parse("@every 1h30m5s"), Ok(Schedule::Every(5405)));
    assert_eq!(Schedule::parse("@daily"), Schedule::parse("0 0 * * *"));
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_odd(text in "[-@0-9a-z*,/? =TZ]{0,24}") {
        let _ = Schedule::parse(&text);
    }
}
