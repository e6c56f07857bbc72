"""Operations with several implementations behind one signature."""
